"""Compiled templates: to compile that of the glue takes a tenth of what a small build takes."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket

from builder import templates
from builder.acquire import sums
from builder.acquire.cache import path_of


class KeptTemplates(jinja2.BytecodeCache):
    """Kept by the template's text, and by the program that compiled it and its settings."""

    def _place(self, bucket: Bucket) -> Path:
        settings = Path(templates.__file__).read_text()
        return path_of("templates", bucket.key, bucket.checksum, jinja2.__version__, settings)

    def load_bytecode(self, bucket: Bucket) -> None:
        """What `dump_bytecode` kept, if anything; jinja2 itself sees to the version of Python."""
        if (known := sums.read_json(self._place(bucket))) is not None:
            bucket.bytecode_from_string(b64decode(known))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep it."""
        sums.keep_json(self._place(bucket), b64encode(bucket.bytecode_to_string()).decode())
