/* The programs whose speed is measured, in C so that they cost next to nothing themselves.
 *
 * client stat SECONDS          < PATHS   lstat all paths again and again, after once without the clock
 * client read                  < PATHS   open, read to the end and close each once
 * client walk DEPTH DIR                  all names below DIR, DEPTH levels deep (0: all)
 * client random COUNT SEED FILE          4 KiB at random places
 * client readers               < PATHS   a process for each path reads it from beginning to end
 * client write SECONDS SIZE PROCESSES TEMPLATE DIR    each process makes files, one after the other
 * client sync SECONDS SIZE GROUP FILE    append GROUP times SIZE bytes, then fdatasync
 *
 * Prints {"count":N,"bytes":N,"seconds":X,"median_us":X,"p99_us":X}; the last two are 0 where single
 * operations are not timed. client.py says the same in Python.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE (1 << 20)
#define MAX_TIMES (1 << 20)
#define MAX_PROCESSES 64

static uint64_t count, bytes;
static double *times;
static size_t timed;

static void die(const char *what) {
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void *shared(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    return memory;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void say(double seconds) {
    double median = 0, p99 = 0;
    if (timed) {
        qsort(times, timed, sizeof *times, ascending);
        median = times[timed / 2];
        p99 = times[timed * 99 / 100];
    }
    printf("{\"count\":%llu,\"bytes\":%llu,\"seconds\":%.9f,\"median_us\":%.3f,\"p99_us\":%.3f}\n",
           (unsigned long long)count, (unsigned long long)bytes, seconds, median * 1e6, p99 * 1e6);
}

static char **paths_from_stdin(size_t *number) {
    char **paths = NULL, *line = NULL;
    size_t room = 0, used = 0, size = 0;
    ssize_t length;
    while ((length = getline(&line, &size, stdin)) > 0) {
        if (line[length - 1] == '\n')
            line[--length] = 0;
        if (used == room)
            paths = realloc(paths, (room = room ? 2 * room : 1024) * sizeof *paths);
        paths[used++] = strdup(line);
    }
    *number = used;
    return paths;
}

static void do_stat(double seconds) {
    size_t number;
    char **paths = paths_from_stdin(&number);
    struct stat facts;
    for (size_t i = 0; i < number; i++)
        if (lstat(paths[i], &facts))
            die(paths[i]);
    double start = now();
    do {
        for (size_t i = 0; i < number; i++)
            if (lstat(paths[i], &facts))
                die(paths[i]);
        count += number;
    } while (now() - start < seconds);
    say(now() - start);
}

static uint64_t read_all(const char *path, char *buffer) {
    uint64_t total = 0;
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die(path);
    while ((got = read(fd, buffer, PIECE)) > 0)
        total += got;
    if (got < 0 || close(fd))
        die(path);
    return total;
}

static void do_read(void) {
    size_t number;
    char **paths = paths_from_stdin(&number), *buffer = malloc(PIECE);
    double start = now();
    for (size_t i = 0; i < number; i++)
        bytes += read_all(paths[i], buffer);
    count = number;
    say(now() - start);
}

static void walk(int parent, const char *name, int depth) {
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    if (!directory)
        die(name);
    while (errno = 0, (entry = readdir(directory))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        count++;
        if (entry->d_type == DT_DIR && depth != 1)
            walk(fd, entry->d_name, depth - (depth > 0));
    }
    if (errno)
        die(name);
    closedir(directory);
}

static void do_random(size_t number, unsigned seed, const char *path) {
    char buffer[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (fd < 0 || fstat(fd, &facts))
        die(path);
    srandom(seed);
    double start = now();
    for (size_t i = 0; i < number; i++) {
        uint64_t page = ((uint64_t)random() << 31 | random()) % (facts.st_size / sizeof buffer);
        double before = now();
        if (pread(fd, buffer, sizeof buffer, page * sizeof buffer) != sizeof buffer)
            die(path);
        times[timed++] = now() - before;
    }
    count = number;
    bytes = number * sizeof buffer;
    say(now() - start);
}

/* Runs one function in several processes that begin together; returns the seconds until the last has ended. */
static double together(int processes, void (*run)(int number, void *with), void *with) {
    int gate[2];
    char byte;
    if (pipe(gate))
        die("pipe");
    for (int i = 0; i < processes; i++) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (pid == 0) {
            close(gate[1]);
            if (read(gate[0], &byte, 1) < 0)
                die("pipe");
            run(i, with);
            _exit(0);
        }
    }
    close(gate[0]);
    usleep(50000); /* all of them wait at the gate */
    double start = now();
    close(gate[1]);
    for (int i = 0, status; i < processes; i++)
        if (wait(&status) < 0 || status)
            exit(1);
    return now() - start;
}

struct readers {
    char **paths;
    uint64_t *bytes;
};

static void reader(int number, void *with) {
    struct readers *all = with;
    all->bytes[number] = read_all(all->paths[number], malloc(PIECE));
}

static void do_readers(void) {
    size_t number;
    struct readers all = {paths_from_stdin(&number), shared(MAX_PROCESSES * sizeof(uint64_t))};
    if (number > MAX_PROCESSES)
        number = MAX_PROCESSES;
    double seconds = together(number, reader, &all);
    for (size_t i = 0; i < number; i++)
        bytes += all.bytes[i];
    count = number;
    say(seconds);
}

struct writers {
    double seconds;
    size_t size, pool;
    char *content, *directory;
    struct result {
        uint64_t count;
        double times[MAX_TIMES / 16];
    } *results;
};

static void writer(int number, void *with) {
    struct writers *all = with;
    struct result *mine = &all->results[number];
    char path[4096];
    double start = now();
    for (size_t i = 0; now() - start < all->seconds && i < MAX_TIMES / 16; i++) {
        size_t at = (i * 7919 + number * 104729) % (all->pool - all->size);
        snprintf(path, sizeof path, "%s/w%d-%d-%06zu.csv", all->directory, getpid(), number, i);
        double before = now();
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (fd < 0 || write(fd, all->content + at, all->size) != (ssize_t)all->size || close(fd))
            die(path);
        mine->times[mine->count++] = now() - before;
    }
}

static void do_write(double seconds, size_t size, int processes, const char *template, char *directory) {
    struct stat facts;
    int fd = open(template, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &facts) || facts.st_size <= (off_t)size || processes > MAX_PROCESSES)
        die(template);
    struct writers all = {seconds, size, facts.st_size, malloc(facts.st_size), directory, NULL};
    all.results = shared(processes * sizeof *all.results);
    if (read(fd, all.content, facts.st_size) != facts.st_size)
        die(template);
    double took = together(processes, writer, &all);
    for (int i = 0; i < processes; i++) {
        count += all.results[i].count;
        for (size_t j = 0; j < all.results[i].count && timed < MAX_TIMES; j++)
            times[timed++] = all.results[i].times[j];
    }
    bytes = count * size;
    say(took);
}

static void do_sync(double seconds, size_t size, int group, const char *path) {
    char *content = malloc(size);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        die(path);
    memset(content, 'x', size);
    double start = now();
    while (now() - start < seconds && timed < MAX_TIMES) {
        double before = now();
        for (int i = 0; i < group; i++)
            if (write(fd, content, size) != (ssize_t)size)
                die(path);
        if (fdatasync(fd))
            die(path);
        times[timed++] = now() - before;
        count += group;
    }
    bytes = count * size;
    say(now() - start);
}

int main(int argc, char **argv) {
    times = shared(MAX_TIMES * sizeof *times);
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "stat") && argc == 3)
        do_stat(atof(argv[2]));
    else if (!strcmp(what, "read") && argc == 2)
        do_read();
    else if (!strcmp(what, "walk") && argc == 4) {
        double start = now();
        walk(AT_FDCWD, argv[3], atoi(argv[2]));
        say(now() - start);
    } else if (!strcmp(what, "random") && argc == 5)
        do_random(atol(argv[2]), atoi(argv[3]), argv[4]);
    else if (!strcmp(what, "readers") && argc == 2)
        do_readers();
    else if (!strcmp(what, "write") && argc == 7)
        do_write(atof(argv[2]), atol(argv[3]), atoi(argv[4]), argv[5], argv[6]);
    else if (!strcmp(what, "sync") && argc == 6)
        do_sync(atof(argv[2]), atol(argv[3]), atoi(argv[4]), argv[5]);
    else {
        fprintf(stderr, "client: see the beginning of client.c\n");
        return 2;
    }
    return 0;
}
