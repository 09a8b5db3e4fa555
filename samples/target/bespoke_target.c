// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A module to be patched while it is loaded and has counted things.
 *
 * Each function holds one of the things that tie code to the place where it
 * lies in a running kernel; next-version.patch changes most of them.
 *
 *   cat /proc/bespoke_target               shows everything it knows
 *   echo s > /proc/bespoke_target          takes a step, by rise() or by fall()
 *   echo r (or f) > /proc/bespoke_target   from now on steps are taken by rise() (by fall())
 *   echo w > /proc/bespoke_target          makes it warn
 */
#include <linux/ctype.h>
#include <linux/filter.h>
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#ifdef OWN_KEY
/* The kernel initialises the jump entries of a live patch before it resolves this symbol: a thunk has to test it. */
static DEFINE_STATIC_KEY_FALSE(loud_key);
#define LOUD loud_key
#else
/* sysctl kernel.bpf_stats_enabled; a key that vmlinux exports and that one can turn at run time. */
#define LOUD bpf_stats_enabled_key
#endif

static atomic_t visits;
static atomic_t refused;
static unsigned int seed = 12;
module_param(seed, uint, 0644);

/* A static function with many callers. */
static noinline void tick(void)
{
	atomic_inc(&visits);
}

/* Two static locals of one name: this one counts up, with a paravirt call on either side ... */
static noinline unsigned int rise(void)
{
	static unsigned int calls;
	unsigned long flags;
	unsigned int now;

	tick();
	local_irq_save(flags);
	now = calls += 1;
	local_irq_restore(flags);
	return now;
}

/* ... and this one counts down. */
static noinline unsigned int fall(void)
{
	static unsigned int calls = 1000;

	tick();
	return calls -= 1;
}

/* A function pointer that is stored and compared, so there must be one address for rise(), whichever version runs. */
static unsigned int (*mode)(void) = rise;
static unsigned int last;

static noinline const char *mode_name(void)
{
	return mode == rise ? "rise" : mode == fall ? "fall" : "another function";
}

/* A jump label. */
static noinline const char *voice(void)
{
	if (static_branch_unlikely(&LOUD))
		return "LOUD";
	return "quiet";
}

/* A switch: a table of code addresses where the compiler makes one. */
static noinline unsigned int weigh(unsigned int kind, unsigned int x)
{
	switch (kind) {
	case 0:
		return x + 3;
	case 1:
		return x * 5;
	case 2:
		tick();
		return x << 4;
	case 3:
		return x ^ 0x55;
	case 4:
		return x | 64;
	case 5:
		return x % 7;
	case 6:
		return x * x;
	default:
		return 0;
	}
}

/* A table of label addresses, as in the kernel's own interpreter of BPF, and a static call. */
static noinline unsigned int run(const char *program, unsigned int x)
{
	static const void *const labels[] __annotate_jump_table = { &&stop, &&add, &&twice, &&less };

	goto *labels[*program & 3];
add:
	x += 1;
	goto *labels[*++program & 3];
twice:
	cond_resched();
	x *= 2;
	goto *labels[*++program & 3];
less:
	x -= 1;
	goto *labels[*++program & 3];
stop:
	return x;
}

/* Exception table: a read that may fault and then goes on at `fault`. */
static noinline long peek(const unsigned long *place)
{
	unsigned long value;

	pagefault_disable();
	__get_kernel_nofault(&value, place, unsigned long, fault);
	pagefault_enable();
	return value;
fault:
	pagefault_enable();
	return -1;
}

/* Exception table and alternatives (stac, clac): one byte of the writer's buffer. */
static noinline int hear(const char __user *text, char *command)
{
	char letter;

	if (!user_access_begin(text, 1))
		return -EFAULT;
	unsafe_get_user(letter, text, fault);
	user_access_end();
	*command = letter;
	return 0;
fault:
	user_access_end();
	return -EFAULT;
}

static int show(struct seq_file *file, void *unused)
{
	static const unsigned long here = 42;
	unsigned int kind;

	tick();
	seq_printf(file, "version   old, %s\n", voice());
	seq_puts(file, "shows     nobody counts them\n");
	seq_printf(file, "visits    %d\n", atomic_read(&visits));
	seq_printf(file, "refused   %d\n", atomic_read(&refused));
	seq_printf(file, "mode      %s, last step gave %u\n", mode_name(), last);
	seq_puts(file, "weigh    ");
	for (kind = 0; kind < 8; kind++)
		seq_printf(file, " %u", weigh(kind, seed));
	seq_printf(file, "\nrun       %u\n", run("\1\2\2\3", seed));
	seq_printf(file, "peek      %ld here, %ld nowhere\n", peek(&here), peek((void *)-PAGE_SIZE));
	return 0;
}

static ssize_t obey(struct file *file, const char __user *text, size_t size, loff_t *offset)
{
	char command;
	int error = hear(text, &command);

	if (error)
		return error;
	tick();
	switch (command) {
	case 's':
		last = mode();
		break;
	case 'r':
		mode = rise;
		break;
	case 'f':
		mode = fall;
		break;
	case 'w':
		WARN(1, "bespoke_target: warns because it was told to\n");
		break;
	default:
		atomic_inc(&refused);
		return -EINVAL;
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

static int __init target_init(void)
{
	return proc_create("bespoke_target", 0644, NULL, &operations) ? 0 : -ENOMEM;
}

static void __exit target_exit(void)
{
	remove_proc_entry("bespoke_target", NULL);
}

module_init(target_init);
module_exit(target_exit);
MODULE_DESCRIPTION("What a live patch can meet, in one module");
MODULE_LICENSE("GPL");
