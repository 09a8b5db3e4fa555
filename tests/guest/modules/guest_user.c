// SPDX-License-Identifier: GPL-2.0-or-later
/* Needs guest_loud. */
#include "odd.h"

int guest_loud_number(void);

ODD(pr_info("odd: %d\n", guest_loud_number()));
