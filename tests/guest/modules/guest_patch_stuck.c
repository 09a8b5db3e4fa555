// SPDX-License-Identifier: GPL-2.0-or-later
/* Patches the function that a task may sleep in, which holds the transition up. */
#include "patch.h"

static int patched_set(const char *value, const struct kernel_param *kp)
{
	return 0;
}

PATCH("guest_target", "target_set", patched_set);
