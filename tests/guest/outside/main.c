/* A module out of the kernel's tree: what it shows depends on initial values, which a fix changes. */
#include <linux/module.h>
#include <linux/moduleparam.h>

int outside_other(int x);

static noinline int first(void)
{
	return 1;
}

static noinline int second(void)
{
	return 2;
}

static int bound = 40;
module_param(bound, int, 0644);

static struct {
	int (*pick)(void);
	int (*keep)(void);
	long wide;
	short narrow[2];
} shape = { .pick = first, .keep = second, .wide = 7, .narrow = { 0, 3 } };

static int limit = 4;
module_param(limit, int, 0644);

static int show(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "%d %d %ld %d %d %d\n", READ_ONCE(shape.pick)(), READ_ONCE(shape.keep)(), READ_ONCE(shape.wide),
		       READ_ONCE(shape.narrow[0]), READ_ONCE(shape.narrow[1]), outside_other(3));
}

static const struct kernel_param_ops shown = { .get = show };
module_param_cb(shown, &shown, &shape, 0444);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("initial values to be changed");
