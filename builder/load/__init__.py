"""What becomes of a module: laid out, relocated, patched, redirected, taken out again."""
