/* Runs a program on images of a file, on a Cortex-M in QEMU: reads images.raw, writes the outputs
 * of each to outputs.raw, and instructions and bytes of stack to facts.txt, all by semihosting. */
#include <stdint.h>

#ifdef QATLAB_STEPS /* calls behind which instructions are counted, too */
static uint64_t ticks(void);
static uint64_t ends[QATLAB_STEPS];
#define QATLAB_STEP(i) ends[i] = ticks();
#endif

#define QATLAB_NO_MAIN
#include "model.c"

extern uint32_t data_from[], data_begin[], data_end[], bss_begin[], bss_end[];
extern uint8_t bss_top[], stack_top[];

#define SYST_CSR (*(volatile uint32_t *)0xe000e010)
#define SYST_RVR (*(volatile uint32_t *)0xe000e014)
#define SYST_CVR (*(volatile uint32_t *)0xe000e018)
#define CPACR (*(volatile uint32_t *)0xe000ed88)
#define LARGEST_TICK 0xffffff
#define UNUSED 0xa5 /* what bytes of the stack hold that have not been used */

enum { OPEN = 1, CLOSE = 2, WRITE = 5, READ = 6, EXIT = 0x18 };
enum { MODE_READ = 1, MODE_WRITE = 5, EXITED = 0x20026, FAILED = 0x20023 };

static volatile uint32_t rounds; /* of the counter */

static uint32_t host(uint32_t operation, const void *block)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void end(uint32_t reason)
{
    host(EXIT, (const void *)(uintptr_t)reason);
    for (;;) {
    }
}

static uint32_t opened(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t block[3] = {(uint32_t)(uintptr_t)name, mode, length};
    const uint32_t file = host(OPEN, block);
    if (file == UINT32_MAX) {
        end(FAILED);
    }
    return file;
}

/* Returns the bytes that have not been moved. */
static uint32_t moved(uint32_t operation, uint32_t file, const void *bytes, uint32_t size)
{
    const uint32_t block[3] = {file, (uint32_t)(uintptr_t)bytes, size};
    return host(operation, block);
}

static void write_number(uint32_t file, uint64_t number)
{
    char text[21];
    uint32_t at = sizeof text;
    text[--at] = '\n';
    do {
        text[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    moved(WRITE, file, text + at, (uint32_t)sizeof text - at);
}

static uint64_t ticks(void)
{
    uint32_t before, now;
    do {
        before = rounds;
        now = LARGEST_TICK - SYST_CVR;
    } while (before != rounds);
    return (uint64_t)before * (LARGEST_TICK + 1u) + now;
}

static void next_round(void)
{
    ++rounds;
}

static void fault(void)
{
    end(FAILED);
}

static void paint(uint8_t *top)
{
    for (volatile uint8_t *at = bss_top; at < top; ++at) {
        *at = UNUSED;
    }
}

static uint8_t image[QATLAB_IMAGE_BYTES];
static qatlab_number outputs[QATLAB_CLASSES];

__attribute__((noinline)) static void infer(void)
{
    qatlab_infer(image, outputs);
}

__attribute__((noreturn, used)) static void run(void)
{
    const uint32_t images = opened("images.raw", 10, MODE_READ);
    const uint32_t answers = opened("outputs.raw", 11, MODE_WRITE);
    uint64_t start = 0, taken = 0;
    uint8_t *top;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    paint(top - 64);
    SYST_RVR = LARGEST_TICK;
    SYST_CVR = 0;
    SYST_CSR = 7; /* the processor's clock, with an interrupt at 0 */
    while (SYST_CVR == 0) { /* until it begins */
    }
    while (moved(READ, images, image, sizeof image) == 0) {
        start = ticks();
        infer();
        taken = ticks() - start;
        moved(WRITE, answers, outputs, sizeof outputs);
    }
    const uint8_t *low = bss_top;
    while (low < top && *low == UNUSED) {
        ++low;
    }
    const uint32_t facts = opened("facts.txt", 9, MODE_WRITE);
    write_number(facts, taken);
    write_number(facts, (uint64_t)(top - low));
#ifdef QATLAB_STEPS
    for (uint32_t i = 0; i < QATLAB_STEPS; ++i) {
        write_number(facts, ends[i] - (i == 0 ? start : ends[i - 1]));
    }
#endif
    const uint32_t files[3] = {images, answers, facts};
    for (uint32_t i = 0; i < 3; ++i) {
        host(CLOSE, &files[i]);
    }
    end(EXITED);
    for (;;) {
    }
}

__attribute__((noreturn, used)) void reset(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    CPACR |= 0xfu << 20;
    __asm__ volatile("dsb\n\tisb");
#endif
    for (uint32_t *to = data_begin, *from = data_from; to < data_end;) {
        *to++ = *from++;
    }
    for (uint32_t *to = bss_begin; to < bss_end;) {
        *to++ = 0;
    }
    run();
}

typedef union {
    void *stack;
    void (*handler)(void);
} vector;

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    {.stack = stack_top}, {.handler = reset}, {.handler = fault}, {.handler = fault},
    {.handler = fault},   {.handler = fault}, {.handler = fault}, {.handler = fault},
    {.handler = fault},   {.handler = fault}, {.handler = fault}, {.handler = fault},
    {.handler = fault},   {.handler = fault}, {.handler = fault}, {.handler = next_round},
};
