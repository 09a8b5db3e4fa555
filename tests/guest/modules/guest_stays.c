// SPDX-License-Identifier: GPL-2.0-or-later
/* Cannot be unloaded, for it holds itself, as sctp does. */
#include "odd.h"

ODD(__module_get(THIS_MODULE));
