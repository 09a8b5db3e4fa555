"""The samples: a loadable target and a change to vmlinux, and what compiles and shows them."""
