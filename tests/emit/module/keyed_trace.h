/* SPDX-License-Identifier: GPL-2.0-or-later */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM keyed

#if !defined(KEYED_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define KEYED_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(keyed_step,
	TP_PROTO(unsigned int x),
	TP_ARGS(x),
	TP_STRUCT__entry(__field(unsigned int, x)),
	TP_fast_assign(__entry->x = x;),
	TP_printk("x=%u", __entry->x)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE keyed_trace
#include <trace/define_trace.h>
