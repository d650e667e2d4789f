/*
 * Process 1 of the test machine: load modules, put a writable layer over the
 * host's root, run one program in it, end the machine.
 *
 * Everything after "--" on the kernel's command line is the program. It runs as
 * a child, so that what it leaves behind is reaped here.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	pause();
}

static void fail(const char *what)
{
	fprintf(stderr, "init: %s: %s\n", what, strerror(errno));
	end();
}

static void attach(const char *source, const char *target, const char *type, unsigned long flags,
		   const char *options)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, options))
		fail(target);
}

static void load_modules(void)
{
	char name[128];
	FILE *list = fopen("/modules", "r");

	if (!list)
		fail("/modules");
	while (fscanf(list, "%127s", name) == 1) {
		int fd = open(name, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			fail(name);
		close(fd);
	}
	fclose(list);
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		fail("lo");
	close(fd);
}

int main(int argc, char **argv)
{
	int console;
	pid_t child;

	if (argc < 2) {
		fprintf(stderr, "init: no program\n");
		end();
	}
	load_modules();
	/* cache=loose: the host's files are taken to be still while the machine runs */
	attach("host", "/lower", "9p", MS_RDONLY,
	       "trans=virtio,version=9p2000.L,msize=524288,cache=loose");
	attach("none", "/upper", "tmpfs", 0, "mode=755");
	mkdir("/upper/data", 0755);
	mkdir("/upper/work", 0755);
	attach("none", "/new", "overlay", 0, "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work");
	attach("none", "/new/proc", "proc", 0, NULL);
	attach("none", "/new/sys", "sysfs", 0, NULL);
	attach("none", "/new/dev", "devtmpfs", 0, NULL);
	attach("none", "/new/dev/pts", "devpts", 0, "ptmxmode=666");
	attach("none", "/new/dev/shm", "tmpfs", 0, NULL);
	attach("none", "/new/run", "tmpfs", 0, "mode=755");
	if (chroot("/new") || chdir("/"))
		fail("/new");
	loopback_up();
	console = open("/dev/console", O_RDWR);
	setenv("HOME", "/root", 1);
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("LANG", "C.UTF-8", 1);
	child = fork();
	if (!child) {
		dup2(console, 0);
		dup2(console, 1);
		dup2(console, 2);
		setsid();
		execv(argv[1], argv + 1);
		fail(argv[1]);
	}
	while (wait(NULL) != child)
		;
	end();
}
