/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A system call that a patch changes, in kpatch's words. They are the kernel's own here: the function that is entered
 * (__x64_sys_NAME) is what the tool replaces, and it leaves the tables of tracing (SYSCALL_METADATA) as they are.
 */
#ifndef BESPOKE_KPATCH_SYSCALL_H
#define BESPOKE_KPATCH_SYSCALL_H

#include <linux/syscalls.h>
#include "kpatch-macros.h"

#define KPATCH_SYSCALL_DEFINE1(...) SYSCALL_DEFINE1(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE2(...) SYSCALL_DEFINE2(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE3(...) SYSCALL_DEFINE3(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE4(...) SYSCALL_DEFINE4(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE5(...) SYSCALL_DEFINE5(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE6(...) SYSCALL_DEFINE6(__VA_ARGS__)

#endif
