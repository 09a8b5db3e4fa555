/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the author of a patch says to the tool that makes a livepatch of it, in kpatch's words.
 *
 * The words are kpatch's, what they stand for here is this file's: each is a note, a pointer in a section that no
 * kernel looks at and builder/compose/macros.py reads.
 */
#ifndef BESPOKE_KPATCH_MACROS_H
#define BESPOKE_KPATCH_MACROS_H

#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/printk.h>
#include <linux/static_call.h>

/* What a callback is given. */
typedef struct klp_object patch_object;

#define BESPOKE_NOTE(kind) __used __section(".kpatch." kind) __UNIQUE_ID(bespoke_note)

/* The compiler takes only a function of the right type. */
#define KPATCH_PRE_PATCH_CALLBACK(function) \
	static int (*const BESPOKE_NOTE("callbacks.pre_patch"))(patch_object *) = (function)
#define KPATCH_POST_PATCH_CALLBACK(function) \
	static void (*const BESPOKE_NOTE("callbacks.post_patch"))(patch_object *) = (function)
#define KPATCH_PRE_UNPATCH_CALLBACK(function) \
	static void (*const BESPOKE_NOTE("callbacks.pre_unpatch"))(patch_object *) = (function)
#define KPATCH_POST_UNPATCH_CALLBACK(function) \
	static void (*const BESPOKE_NOTE("callbacks.post_unpatch"))(patch_object *) = (function)

/* A change that is to be left out: of a function, or of all that lies in a section. */
#define KPATCH_IGNORE_FUNCTION(function) \
	static const void *const BESPOKE_NOTE("ignore.functions") = (function)
#define KPATCH_IGNORE_SECTION(name) \
	static const char *const BESPOKE_NOTE("ignore.sections") = (name)

/* The author has seen to it that the old and the new function may run at once. */
#define KPATCH_FORCE_UNSAFE(function) \
	static const void *const BESPOKE_NOTE("force") = (function)

/* A message without an entry in the kernel's index of messages. */
#define KPATCH_PRINTK(format, ...) _printk(format, ##__VA_ARGS__)

/* A static call whose key a module owns, as a call through the pointer that the key holds. */
#define KPATCH_STATIC_CALL(name) \
	((typeof(&STATIC_CALL_TRAMP(name)))READ_ONCE(STATIC_CALL_KEY(name).func))

/*
 * Shadow variables by name, as kpatch had them before the kernel did; the kernel's own are told apart by a number,
 * which is made from the name (FNV-1a).
 */
static inline unsigned long kpatch_shadow_id(const char *name)
{
	unsigned long id = 0xcbf29ce484222325UL;

	while (*name)
		id = (id ^ (unsigned char)*name++) * 0x100000001b3UL;
	return id;
}

static inline void *kpatch_shadow_alloc(void *object, const char *name, size_t size, gfp_t flags)
{
	return klp_shadow_alloc(object, kpatch_shadow_id(name), size, flags, NULL, NULL);
}

static inline void *kpatch_shadow_get(void *object, const char *name)
{
	return klp_shadow_get(object, kpatch_shadow_id(name));
}

static inline void kpatch_shadow_free(void *object, const char *name)
{
	klp_shadow_free(object, kpatch_shadow_id(name), NULL);
}

#endif
