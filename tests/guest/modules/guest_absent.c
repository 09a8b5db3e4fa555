// SPDX-License-Identifier: GPL-2.0-or-later
/* Its device is not there. */
#include "odd.h"

ODD(return -ENODEV);
