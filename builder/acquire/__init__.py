"""Where objects come from: a distribution's packages, a prepared source tree, a source patch."""
