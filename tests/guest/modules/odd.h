/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A module that is no model of its kind: its parameter says "original", BEGIN is what it does first. */
#include <linux/module.h>
#include <linux/moduleparam.h>

#define ODD(BEGIN)                                                                         \
	static noinline int odd_get(char *buffer, const struct kernel_param *kp)           \
	{                                                                                  \
		return sprintf(buffer, "original\n");                                      \
	}                                                                                  \
	static const struct kernel_param_ops ops = { .get = odd_get };                     \
	module_param_cb(value, &ops, NULL, 0444);                                          \
	static int __init odd_init(void) { BEGIN; return 0; }                              \
	static void __exit odd_exit(void) { pr_err("odd: gone at %lu\n", jiffies); }       \
	module_init(odd_init);                                                             \
	module_exit(odd_exit);                                                             \
	MODULE_LICENSE("GPL");                                                             \
	MODULE_DESCRIPTION("odd target of the guest's tests")
