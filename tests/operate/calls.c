/*
 * Numbered reads and writes of /dev/null until FLAG is gone: pwrite() of 77 bytes and pread() of 78, at offsets 0, 1, ...
 * How many there were is told by the size of FILE, so that nothing else is written. calls FLAG FILE
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int null = open("/dev/null", O_RDWR), file = open(argv[2], O_RDWR | O_CREAT, 0600);
	char text[78] = "";
	long n;

	prctl(PR_SET_NAME, "numbered");
	for (n = 0; access(argv[1], F_OK) == 0; n++) {
		pwrite(null, text, 77, n);
		pread(null, text, 78, n);
		usleep(50);
	}
	return ftruncate(file, n) || argc != 3;
}
