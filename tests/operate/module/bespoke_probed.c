// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Two functions, one calling the other, with places for probes of each kind.
 *
 *   echo KIND COUNT > /proc/bespoke_probed   calls outer(KIND, 0), outer(KIND, 1), ...
 *   cat /proc/bespoke_probed                 what the calls came to
 *
 * Version 1 changes both and counts in a new variable; version 2 changes only inner().
 */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

static unsigned long notes;
static unsigned long rarities;
static unsigned int last;

static noinline void note(unsigned int value)
{
	notes += 1;
	last = value;
}

static noinline __cold void rare(unsigned int value)
{
	rarities += 1;
	last = value;
}

static noinline unsigned int inner(unsigned int kind, unsigned int x)
{
	unsigned int y = x * 3 + kind;

#if VERSION >= 2
	if (y > 1000000)
		return 0;
#endif
	if (unlikely(kind == 3)) {
		rare(y);
		y ^= 0x11;
		rare(y);
	}
	note(y);
	return y + 1 + VERSION;
}

static noinline unsigned int outer(unsigned int kind, unsigned int x)
{
	unsigned int y;
#if VERSION >= 1
	static unsigned int entered;

	entered += 1;
	y = inner(kind, x);
	note(entered);
#else
	y = inner(kind, x);
#endif
	note(y);
	return y * 2;
}

static unsigned long calls;
static unsigned long sum;

static int show(struct seq_file *file, void *unused)
{
	seq_printf(file, "calls %lu sum %lu notes %lu rarities %lu last %u\n", calls, sum, notes, rarities, last);
	return 0;
}

static ssize_t obey(struct file *file, const char __user *text, size_t size, loff_t *offset)
{
	unsigned int kind, count, k;
	char line[32] = {};

	if (size >= sizeof(line) || copy_from_user(line, text, size))
		return -EINVAL;
	if (sscanf(line, "%u %u", &kind, &count) != 2)
		return -EINVAL;
	for (k = 0; k < count; k++) {
		sum += outer(kind, k);
		calls += 1;
		cond_resched();
	}
	return size;
}

static int open(struct inode *inode, struct file *file)
{
	return single_open(file, show, NULL);
}

static const struct proc_ops operations = {
	.proc_open = open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_write = obey,
	.proc_release = single_release,
};

static int __init probed_init(void)
{
	return proc_create("bespoke_probed", 0644, NULL, &operations) ? 0 : -ENOMEM;
}

static void __exit probed_exit(void)
{
	remove_proc_entry("bespoke_probed", NULL);
}

module_init(probed_init);
module_exit(probed_exit);
MODULE_DESCRIPTION("Functions to plant probes in");
MODULE_LICENSE("GPL");
