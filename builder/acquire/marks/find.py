"""From a place to the file and function that it is in, among those that the kernel is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from builder.acquire.kbuild import ListedObjects
from builder.acquire.marks.heads import files_with_head
from builder.acquire.marks.place import FORMS, MarkPlace, MarkSpot, call_name, find_spots, refused
from builder.acquire.marks.syntax import Function, SourceText
from builder.acquire.readers import beyond, read_includes
from builder.acquire.source import SourceTree

_PROGRAMS: Final = ("scripts", "tools", "samples", "usr")
"""Folders whose headers are of programs that run beside the kernel, not in it."""


class Finder:
    """The functions of one prepared tree, with the files `patched` in place of its own; files are read once."""

    def __init__(self, tree: SourceTree, objects: ListedObjects, patched: Mapping[str, bytes]) -> None:
        self.tree = tree
        self.patched = patched
        self.objects = objects
        self._sources: dict[str, SourceText] = {}

    def spots(self, place: MarkPlace) -> tuple[MarkSpot, ...]:
        """Where `place` is; RefusedError says what else can be said."""
        source, function = self._function(place)
        return find_spots(place, source, function)

    def _function(self, place: MarkPlace) -> tuple[SourceText, Function]:
        if place.file and not (self.tree.root / place.file).is_file():
            raise refused(place, f"there is no file {place.file} in the source", self._alike(place))
        if place.line:
            source = self.source(place.file)
            if place.line > len(source.lines):
                raise refused(place, f"{place.file} has {len(source.lines)} lines", "say one of them")
            found = source.around(place.line)
            if found is None:
                raise refused(
                    place,
                    f"{place.file}:{place.line} is in no function",
                    f"the nearest that can be marked: {_nearest(source, place.line)}",
                )
            return source, self._built(place, source, found)
        rows: list[tuple[SourceText, Function]] = []
        for wanted in _names(place.function):
            sources = [self.source(place.file)] if place.file else list(self._defining(wanted))
            rows = [(source, function) for source in sources for function in source.named(wanted)]
            if rows:
                break
        built = [(s, f) for s, f in rows if self._is_built(s.path)]
        if len(built) == 1:
            return built[0]
        if not rows:
            where = place.file or "the source"
            like = f"; there are {alike}" if (alike := self._functions_alike(place)) else ""
            raise refused(place, f"no function {place.function}() is defined in {where}",
                          f"say {FORMS}; what a macro makes by its line{like}")  # fmt: skip
        if not built:
            raise refused(place, f"{rows[0][0].path}, where {place.function}() is, is no part of this kernel",
                          "it is of another configuration: mark another place")  # fmt: skip
        places = ", ".join(f"{s.path}:{f.first}" for s, f in built)
        raise refused(
            place, f"there are {len(built)} functions {place.function}(): {places}",
            f"say FILE:LINE, or the file too: {built[0][0].path}:{place.text}" if len({s.path for s, _ in built}) > 1
            else "say FILE:LINE",
        )  # fmt: skip

    def _built(self, place: MarkPlace, source: SourceText, function: Function) -> Function:
        if not self._is_built(source.path):
            raise refused(place, f"{source.path} is no part of this kernel", "it is of another configuration")
        return function

    def source(self, path: str) -> SourceText:
        found = self._sources.get(path)
        if found is None:
            found = self._sources[path] = SourceText(
                path, self.patched[path] if path in self.patched else (self.tree.root / path).read_bytes()
            )
        return found

    def _is_built(self, path: str) -> bool:
        """Whether something that can be patched is compiled from it, or may include it."""
        if commands := self.objects.of_source(path):
            return any(command.owners for command in commands)
        if path.endswith(".h"):
            return path.partition("/")[0] not in _PROGRAMS
        return bool(read_includes(self.tree, self.objects).including(path))

    def _defining(self, name: str) -> Iterator[SourceText]:
        """The files in which a line looks like the head of that function."""
        built = {file for _, file in self.objects.linked()}
        outside = beyond(self.objects)
        paths = [*files_with_head(self.tree, name), *files_with_head(self.tree, call_name(name))]
        for path in dict.fromkeys(paths):
            if path.endswith(".h") or path in built or path.rpartition("/")[0] in outside:
                yield self.source(path)

    def _functions_alike(self, place: MarkPlace) -> str:
        """Names of functions of the file that are nearly that one."""
        names = [f.name for f in self.source(place.file).functions] if place.file else []
        return ", ".join(get_close_matches(place.function, names, 3))

    def _alike(self, place: MarkPlace) -> str:
        name = Path(place.file).name
        found = sorted({file for _, file in self.objects.linked() if file.endswith(f"/{name}")})[:5]
        return f"did you mean {', '.join(found)}" if found else "say a path as it is in the kernel's source"


def _names(name: str) -> Iterator[str]:
    """The name, and what the body is called that a macro makes for it: `__x64_sys_openat` is but the way to it."""
    call = re.fullmatch(r"__(?:x64|ia32|se)_(compat_)?sys_(\w+)", name)
    yield name if call is None else f"__do_{call[1] or ''}sys_{call[2]}"
    if re.fullmatch(r"(?:compat_)?sys_\w+", name):
        yield f"__do_{name}"
    elif re.match(r"sysvec_|common_interrupt$|spurious_interrupt$", name):
        yield f"__{name}"


def _nearest(source: SourceText, line: int) -> str:
    before = [f for f in source.functions if f.last < line][-1:]
    behind = [f for f in source.functions if f.first > line][:1]
    return ", ".join(f"{f.name} ({source.path}:{f.first})" for f in before + behind) or "none in this file"
