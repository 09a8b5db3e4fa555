// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A module whose exit code changes beside other code.
 *
 *   cat /proc/bespoke_leaving    the version of what runs
 *
 * When it is unloaded, it says the version of its exit code, and of what that calls, once `held` is 0.
 */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

static bool held;
module_param(held, bool, 0600);

static int show(struct seq_file *seq, void *data)
{
	seq_printf(seq, "version %d\n", VERSION);
	return 0;
}

/* Exit code that the changed function is called by, and that does not change itself. */
static void __exit noinline say(const char *what)
{
#if VERSION
	pr_info("bespoke_leaving: %s of version %d\n", what, VERSION);
#else
	pr_info("bespoke_leaving: old %s\n", what);
#endif
}

static int __init enter(void)
{
	return proc_create_single("bespoke_leaving", 0400, NULL, show) ? 0 : -ENOMEM;
}

static void __exit leave(void)
{
	say("way out");
	while (READ_ONCE(held))
		msleep(20);
	remove_proc_entry("bespoke_leaving", NULL);
	say("end");
}

module_init(enter);
module_exit(leave);
MODULE_DESCRIPTION("what the tests of exit code patch");
MODULE_LICENSE("GPL");
