// SPDX-License-Identifier: GPL-2.0-or-later
/* Complains whenever it is loaded and unloaded, and another module needs it. */
#include "odd.h"

int guest_loud_number(void);
int guest_loud_number(void)
{
	return 1;
}
EXPORT_SYMBOL_GPL(guest_loud_number);

ODD(pr_err("odd: what it always says, at %lu\n", jiffies); WARN_ON(1));
