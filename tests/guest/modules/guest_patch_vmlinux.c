// SPDX-License-Identifier: GPL-2.0-or-later
#include "patch.h"

static int patched_cmdline(struct seq_file *m, void *v)
{
	seq_puts(m, "patched command line\n");
	return 0;
}

PATCH(NULL, "cmdline_proc_show", patched_cmdline);
