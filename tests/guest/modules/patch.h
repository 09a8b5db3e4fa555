/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A live patch of one function of one object, as small as it gets. */
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/seq_file.h>

#define PATCH(object, old, new)                                                            \
	static struct klp_func funcs[] = { { .old_name = old, .new_func = new }, {} };     \
	static struct klp_object objects[] = { { .name = object, .funcs = funcs }, {} };   \
	static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };           \
	static int __init patch_init(void) { return klp_enable_patch(&patch); }            \
	static void __exit patch_exit(void) {}                                             \
	module_init(patch_init);                                                           \
	module_exit(patch_exit);                                                           \
	MODULE_LICENSE("GPL");                                                             \
	MODULE_INFO(livepatch, "Y");                                                       \
	MODULE_DESCRIPTION("live patch of the guest's tests")
