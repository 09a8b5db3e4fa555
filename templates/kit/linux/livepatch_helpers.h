/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The words that kernels have for authors of livepatches from v6.19 on, for those that lack them; see kpatch-macros.h.
 */
#ifndef BESPOKE_LIVEPATCH_HELPERS_H
#define BESPOKE_LIVEPATCH_HELPERS_H

#include <kpatch-macros.h>
#include <linux/syscalls.h>

#ifdef MODULE
#define KLP_OBJNAME __KBUILD_MODNAME
#else
#define KLP_OBJNAME vmlinux
#endif

#define KLP_PRE_PATCH_CALLBACK(function) KPATCH_PRE_PATCH_CALLBACK(function)
#define KLP_POST_PATCH_CALLBACK(function) KPATCH_POST_PATCH_CALLBACK(function)
#define KLP_PRE_UNPATCH_CALLBACK(function) KPATCH_PRE_UNPATCH_CALLBACK(function)
#define KLP_POST_UNPATCH_CALLBACK(function) KPATCH_POST_UNPATCH_CALLBACK(function)
#define KLP_STATIC_CALL(name) KPATCH_STATIC_CALL(name)

#define KLP_SYSCALL_DEFINE1(...) SYSCALL_DEFINE1(__VA_ARGS__)
#define KLP_SYSCALL_DEFINE2(...) SYSCALL_DEFINE2(__VA_ARGS__)
#define KLP_SYSCALL_DEFINE3(...) SYSCALL_DEFINE3(__VA_ARGS__)
#define KLP_SYSCALL_DEFINE4(...) SYSCALL_DEFINE4(__VA_ARGS__)
#define KLP_SYSCALL_DEFINE5(...) SYSCALL_DEFINE5(__VA_ARGS__)
#define KLP_SYSCALL_DEFINE6(...) SYSCALL_DEFINE6(__VA_ARGS__)

#endif
