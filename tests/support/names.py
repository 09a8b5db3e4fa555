"""Names that nobody should choose, and that an object, a patch or a path can have all the same."""

from __future__ import annotations

import re
from typing import Final


def _bytes(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


HOSTILE: Final = (
    # what a terminal obeys
    "\x1b[31mred\x1b[0m", "\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link", "\x1b[?1049h", "\x1bc",
    "\x1bP+q\x1b\\", "\x9b31m", "\x9d0;t\x9c", "\x07", "\x08\x08\x08", "\x0e", "\x0b", "\x0c", "\x7f", "\x01\x02\x03",
    # ends of lines
    "a\nb", "a\rb", "a\r\nb", "\nbespoke: refused: all is well", "a\x85b", "a\u2028b", "a\u2029b", "a\tb",
    # what turns or hides text
    "a\u202egnp.exe", "a\u202dx", "a\u2066b\u2069", "a\u200eb", "a\u200fb", "a\u061cb", "zero\u200bwidth", "a\ufeffb",
    "a\u00adb", "a\u2060b", "tag\U000e0041", "\ufff9x\ufffa",
    # what is no UTF-8
    _bytes(b"\xff"), _bytes(b"a\xc3"), _bytes(b"\xc0\xaf"), _bytes(b"\xed\xa0\x80"), _bytes(b"\xf5\x80\x80\x80"),
    _bytes(b"\x80\x1b[1m"),
    # quotes and what ends them
    '"', "'", "`", "\\", "\\n", "a\"b'c`d", "$(reboot)", "; rm -rf ~", "%s%n", "--output",
    # templates, pages, styles
    "{{ outcome }}", "{% raw %}", "{# x #}", '<script>alert("1")</script>', "\"'><img src=x onerror=alert(1)>",
    "</style><style>body{display:none}", "javascript:alert(1)", "&lt;script&gt;", "<!--", "]]>",
    # rich's own
    "[red]x[/red]", "[/nothing]", ":bug:", "[link=http://x]x[/link]",
    # the assembler's
    '"\n\t.byte 0xcc\n"', ".section .init.text", "a, @function", "name; .long 1", "#define X", "/* x", "1f",
    # other scripts, which are to be shown
    "Grüße", "世界", "नमस्ते",
)  # fmt: skip
"""Each without a NUL, which no name in a file can have, and without a slash where it is to be a file's."""

OBEYED: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What must reach neither a terminal nor a page."""
