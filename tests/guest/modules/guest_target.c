// SPDX-License-Identifier: GPL-2.0-or-later
/* A module to patch: its parameter counts how often it is read, and misbehaves when it is told to. */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static int reads;

static noinline int target_get(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "original %d\n", ++reads);
}

static noinline int target_set(const char *value, const struct kernel_param *kp)
{
	switch (value[0]) {
	case 's': /* sleep, and heed no signal */
		msleep(3600 * 1000);
		break;
	case 'w':
		WARN_ON(1);
		break;
	case 'o':
		*(volatile int *)8 = 1;
		break;
	}
	return 0;
}

static const struct kernel_param_ops ops = { .get = target_get, .set = target_set };
module_param_cb(value, &ops, NULL, 0644);

static int __init target_init(void)
{
	return 0;
}

static void __exit target_exit(void)
{
}

module_init(target_init);
module_exit(target_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("target of the guest's tests");
