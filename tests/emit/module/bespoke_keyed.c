// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Functions whose static keys, static calls and tracepoint are the module's own, and an alternative that calls into it.
 *
 *   cat /proc/bespoke_keyed           what the functions below say, then the same by one that no version changes
 *   echo k (or c) > /proc/bespoke_keyed    turns the keys (the static calls)
 *
 * Version 1 says so in each of them.
 */
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/static_call.h>
#include <linux/uaccess.h>

#define CREATE_TRACE_POINTS
#include "keyed_trace.h"

static DEFINE_STATIC_KEY_FALSE(off_key);
static DEFINE_STATIC_KEY_TRUE(on_key);

static unsigned int once(unsigned int x)
{
	return x + 1;
}

static unsigned int twice(unsigned int x)
{
	return x + 2;
}

static unsigned int noted;

static void note(unsigned int x)
{
	noted += x;
}

DEFINE_STATIC_CALL(keyed_call, once);
DEFINE_STATIC_CALL_NULL(keyed_note, note);

/* Called by an alternative, so that it keeps all registers. */
unsigned int first_count, other_count;
asm(".pushsection .text\n"
    ".type first_way, @function\nfirst_way: " ASM_ENDBR "incl first_count(%rip)\n" ASM_RET "\n.size first_way, . - first_way\n"
    ".type other_way, @function\nother_way: " ASM_ENDBR "incl other_count(%rip)\n" ASM_RET "\n.size other_way, . - other_way\n"
    ".popsection");

#define LONG(x) asm volatile(".rept 70\n\taddl $1, %0\n\t.endr" : "+r" (x))

/* Four labels, near their goals: sites of two bytes, some far from the function's end. */
static __attribute__((noipa)) unsigned int near(unsigned int x)
{
	unsigned int found = VERSION * 1000;

	if (static_branch_unlikely(&off_key))
		found += 1;
	if (static_branch_likely(&off_key))
		found += 2;
	LONG(x);
	if (static_branch_unlikely(&on_key))
		found += 4;
	LONG(x);
	if (static_branch_likely(&on_key))
		found += 8;
	return found + x - x;
}

/* One whose goal is far away: a site of five bytes. */
static __attribute__((noipa)) unsigned int far(unsigned int x)
{
	unsigned int found = VERSION * 1000;

	if (static_branch_unlikely(&off_key)) {
		LONG(found);
		LONG(found);
		LONG(found);
		found -= 210;
		found += 1;
	}
	return found + static_branch_unlikely(&on_key) * 2;
}

/* The site is what a loop comes back to, and where calls are. */
static __attribute__((noipa)) unsigned int looped(unsigned int x)
{
	unsigned int found = VERSION * 1000, k;

	for (k = 0; k < x; k++) {
		if (static_branch_unlikely(&off_key))
			found += 3;
		barrier();
		if (!static_branch_likely(&on_key))
			found += once(k);
	}
	LONG(k);
	return found;
}

static __attribute__((noipa)) unsigned int called(unsigned int x)
{
	static_call_cond(keyed_note)(x);
	trace_keyed_step(x);
	alternative("call first_way", "call other_way", X86_FEATURE_ALWAYS);
	alternative("call first_way", "call other_way", X86_FEATURE_IA64);
	return static_call(keyed_call)(x) + VERSION * 1000;
}

static __attribute__((noipa)) unsigned int ends_in_a_call(unsigned int x)
{
	return static_call(keyed_call)(x + VERSION);
}

static noinline void by_others(struct seq_file *file)
{
	seq_printf(file, "keys %d %d call %u\n", static_key_enabled(&off_key), static_key_enabled(&on_key),
		   static_call(keyed_call)(0));
}

static int show(struct seq_file *file, void *unused)
{
	seq_printf(file, "near %u far %u looped %u called %u ends %u ways %u %u noted %u\n", near(1), far(2), looped(3),
		   called(4), ends_in_a_call(5), first_count, other_count, noted);
	by_others(file);
	return 0;
}

static ssize_t obey(struct file *file, const char __user *text, size_t size, loff_t *offset)
{
	char command;

	if (copy_from_user(&command, text, 1))
		return -EFAULT;
	if (command == 'k' && static_key_enabled(&off_key)) {
		static_branch_disable(&off_key);
		static_branch_enable(&on_key);
	} else if (command == 'k') {
		static_branch_enable(&off_key);
		static_branch_disable(&on_key);
	} else if (static_call_query(keyed_call) == once) {
		static_call_update(keyed_call, twice);
		static_call_update(keyed_note, note);
	} else {
		static_call_update(keyed_call, once);
		static_call_update(keyed_note, NULL);
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

static int __init keyed_init(void)
{
	return proc_create("bespoke_keyed", 0644, NULL, &operations) ? 0 : -ENOMEM;
}

static void __exit keyed_exit(void)
{
	remove_proc_entry("bespoke_keyed", NULL);
}

module_init(keyed_init);
module_exit(keyed_exit);
MODULE_DESCRIPTION("Keys, calls and a tracepoint that a module owns");
MODULE_LICENSE("GPL");
