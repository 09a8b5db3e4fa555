// SPDX-License-Identifier: GPL-2.0-or-later
#include "patch.h"

static int patched_get(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "patched\n");
}

PATCH("guest_stays", "odd_get", patched_get);
