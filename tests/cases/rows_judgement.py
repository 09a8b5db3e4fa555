"""Judgement: what can be built, and would not do what it is for."""

from __future__ import annotations

from tests.cases.written import Row

ROWS: tuple[Row, ...] = ()
