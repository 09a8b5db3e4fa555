/* Writes of one byte into /dev/null: how many nanoseconds each takes. Freestanding, so that it runs anywhere. */
static long call(long number, long a, long b, long c)
{
	long value;

	asm volatile("syscall" : "=a"(value) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return value;
}

static long now(void)
{
	long time[2];

	call(228, 1, (long)time, 0); /* clock_gettime, CLOCK_MONOTONIC */
	return time[0] * 1000000000 + time[1];
}

void _start(void)
{
	long file = call(2, (long)"/dev/null", 1, 0), started, spent, n, at = 19;
	char text[20];

	started = now();
	for (n = 0; n < COUNT; n++)
		call(1, file, (long)text, 1);
	spent = now() - started;
	text[at] = '\n';
	do
		text[--at] = '0' + spent % 10;
	while (spent /= 10);
	call(1, 1, (long)text + at, 20 - at);
	call(60, 0, 0, 0);
}
