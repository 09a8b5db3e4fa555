/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What only this tool reads, beside kpatch's words (kpatch-macros.h).
 */
#ifndef BESPOKE_H
#define BESPOKE_H

#include <kpatch-macros.h>

/*
 * A change of the system's state that the livepatch makes: the variable `name` is its struct klp_state. A later
 * livepatch finds it by klp_get_prev_state(number), with the data that a callback has put there; one that takes the
 * place of this one is taken only if it knows the number, in no older version.
 */
#define BESPOKE_STATE(name, number, generation) \
	static struct klp_state name __used __aligned(8) __section(".bespoke.states") = \
		{ .id = (number), .version = (generation) }

/* Runs when the module is taken out, whoever took its place; livepatch runs no callback then. */
#define BESPOKE_MODULE_EXIT(function) \
	static void (*const BESPOKE_NOTE("callbacks.module_exit"))(void) = (function)

#endif
