/* Numbers of `width` bits, read one after the other. */
typedef struct {
    const uint8_t *next;
    uint32_t held;
    int32_t left; /* bits in `held` */
} qatlab_bits;

/* Begins at a bit of an array. */
static inline qatlab_bits qatlab_open(const uint8_t *packed, uint32_t first)
{
    qatlab_bits bits = {packed + first / 8, 0, 0};
    if (first % 8 != 0) {
        bits.held = (uint32_t)*bits.next++ >> first % 8;
        bits.left = 8 - (int32_t)(first % 8);
    }
    return bits;
}

/* Returns the next number; reads no byte that it does not need. */
static inline int32_t qatlab_take(qatlab_bits *bits, int32_t width)
{
    while (bits->left < width) {
        bits->held |= (uint32_t)*bits->next++ << bits->left;
        bits->left += 8;
    }
    const uint32_t taken = bits->held & (((uint32_t)1 << width) - 1);
    bits->held >>= width;
    bits->left -= width;
    return (int32_t)taken;
}

/* Unpacks the weights of one output channel: gap * k + lowest. */
static inline void qatlab_unpack_int8_t(qatlab_bits bits, int32_t width, int32_t gap, int32_t lowest,
                                        int8_t *row, int32_t count)
{
    for (int32_t i = 0; i < count; ++i) {
        row[i] = (int8_t)(gap * qatlab_take(&bits, width) + lowest);
    }
}

static inline void qatlab_unpack_int16_t(qatlab_bits bits, int32_t width, int32_t gap,
                                         int32_t lowest, int16_t *row, int32_t count)
{
    for (int32_t i = 0; i < count; ++i) {
        row[i] = (int16_t)(gap * qatlab_take(&bits, width) + lowest);
    }
}

static inline void qatlab_unpack_int32_t(qatlab_bits bits, int32_t width, int32_t gap,
                                         int32_t lowest, int32_t *row, int32_t count)
{
    for (int32_t i = 0; i < count; ++i) {
        row[i] = gap * qatlab_take(&bits, width) + lowest;
    }
}

/* Codes wider than a byte are kept byte by byte, so that tensors of any type can share memory. */
static inline void qatlab_put_16(uint8_t *codes, int32_t at, int32_t code)
{
    const uint16_t bits = (uint16_t)code;
    codes[2 * at] = (uint8_t)(bits & 255);
    codes[2 * at + 1] = (uint8_t)(bits >> 8);
}

static inline int32_t qatlab_get_uint16_t(const uint8_t *codes, int32_t at)
{
    return (int32_t)codes[2 * at + 1] * 256 + codes[2 * at];
}

/* The sign is put back by arithmetic: converting a number that is too large depends on compilers. */
static inline int32_t qatlab_get_int16_t(const uint8_t *codes, int32_t at)
{
    const int32_t bits = (int32_t)codes[2 * at + 1] * 256 + codes[2 * at];
    return bits < 32768 ? bits : bits - 65536;
}

static inline void qatlab_put_32(uint8_t *codes, int32_t at, int32_t code)
{
    const uint32_t bits = (uint32_t)code;
    codes[4 * at] = (uint8_t)(bits & 255);
    codes[4 * at + 1] = (uint8_t)(bits >> 8 & 255);
    codes[4 * at + 2] = (uint8_t)(bits >> 16 & 255);
    codes[4 * at + 3] = (uint8_t)(bits >> 24);
}

static inline int32_t qatlab_get_int32_t(const uint8_t *codes, int32_t at)
{
    const uint32_t bits = (uint32_t)codes[4 * at + 3] << 24 | (uint32_t)codes[4 * at + 2] << 16 |
                          (uint32_t)codes[4 * at + 1] << 8 | (uint32_t)codes[4 * at];
    return bits <= INT32_MAX ? (int32_t)bits : -(int32_t)(UINT32_MAX - bits) - 1;
}

/* Codes of 4 bits lie two to a byte. */
static inline int32_t qatlab_get_half(const uint8_t *codes, int32_t at)
{
    return codes[at / 2] >> at % 2 * 4 & 15;
}

static inline void qatlab_put_half(uint8_t *codes, int32_t at, int32_t code)
{
    const int32_t other = codes[at / 2] & (at % 2 != 0 ? 15 : 240);
    codes[at / 2] = (uint8_t)(other | code << at % 2 * 4);
}

/* The number that 4 bits stand for, if their highest one is a sign. */
static inline int32_t qatlab_signed_half(int32_t bits)
{
    return (bits ^ 8) - 8;
}

/* Two codes of a window. Processors with DSP instructions multiply and add both at once; there,
 * and with vectors of MVE or SSE2, inner loops use these, unless QATLAB_PLAIN is defined. */
#if defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_BIG_ENDIAN) && !defined(QATLAB_PLAIN)
#include <arm_acle.h>
#include <string.h>
#define QATLAB_DSP
#if (__ARM_FEATURE_MVE + 0) & 1
#include <arm_mve.h>
#define QATLAB_MVE
#endif
typedef struct { uint32_t both; } qatlab_pair;
#else
#if defined(__SSE2__) && !defined(QATLAB_PLAIN)
#include <emmintrin.h>
#define QATLAB_SSE2
#endif
typedef struct { uint16_t first, second; } qatlab_pair;
#endif

static inline qatlab_pair qatlab_pair_of(uint32_t both)
{
#if defined(QATLAB_DSP)
    const qatlab_pair pair = {both};
#else
    const qatlab_pair pair = {(uint16_t)(both & 65535), (uint16_t)(both >> 16)};
#endif
    return pair;
}

/* Makes a pair of the bytes 0 and 2, which are signed. */
static inline qatlab_pair qatlab_signed_pair(uint32_t word)
{
#if defined(QATLAB_DSP)
    return qatlab_pair_of((uint32_t)__sxtb16(word));
#else
    const uint32_t first = (word & 255) - (word & 128) * 2;
    const uint32_t second = (word >> 16 & 255) - (word >> 16 & 128) * 2;
    return qatlab_pair_of((first & 65535) | second << 16);
#endif
}

/* Makes a pair of the lower and the upper 16 bits, each less 8. */
static inline qatlab_pair qatlab_pair_less_8(uint32_t both)
{
#if defined(QATLAB_DSP)
    return qatlab_pair_of((uint32_t)__ssub16((int16x2_t)both, 0x80008));
#else
    const qatlab_pair pair = {(uint16_t)((both & 65535) - 8), (uint16_t)((both >> 16) - 8)};
    return pair;
#endif
}

#if defined(QATLAB_DSP)
/* Adds the products of both halves. */
static inline int32_t qatlab_dual(qatlab_pair pair, uint32_t of, int32_t sum)
{
    return __smlad((int16x2_t)pair.both, (int16x2_t)of, sum);
}
#endif

#if defined(QATLAB_SSE2)
/* Adds the four numbers of a vector, modulo 2 to the 32. */
static inline int32_t qatlab_total(__m128i four)
{
    const __m128i two = _mm_add_epi32(four, _mm_srli_si128(four, 8));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_srli_si128(two, 4)));
}
#endif

/* Adds the products of the halves of two pairs, which are signed. */
static inline int32_t qatlab_products(qatlab_pair pair, qatlab_pair of, int32_t sum)
{
#if defined(QATLAB_DSP)
    return qatlab_dual(pair, of.both, sum);
#else
    return sum + (int32_t)(int16_t)pair.first * (int16_t)of.first +
           (int32_t)(int16_t)pair.second * (int16_t)of.second;
#endif
}

/* Adds both codes to a sum. */
static inline int32_t qatlab_add(qatlab_pair pair, int32_t sum)
{
#if defined(QATLAB_DSP)
    return qatlab_dual(pair, 0x10001, sum);
#else
    return sum + pair.first + pair.second;
#endif
}

static inline int32_t qatlab_add_signed(qatlab_pair pair, int32_t sum)
{
#if defined(QATLAB_DSP)
    return qatlab_dual(pair, 0x10001, sum);
#else
    return sum + (int16_t)pair.first + (int16_t)pair.second;
#endif
}

static inline void qatlab_copy(uint8_t *to, const uint8_t *from, int32_t size)
{
#if defined(QATLAB_DSP)
    memcpy(to, from, (size_t)size);
#else
    for (int32_t i = 0; i < size; ++i) {
        to[i] = from[i];
    }
#endif
}

/* Four bytes as a word, the first one lowest. */
static inline uint32_t qatlab_word(const uint8_t *bytes)
{
#if defined(QATLAB_DSP)
    uint32_t word;
    memcpy(&word, bytes, 4);
    return word;
#else
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
#endif
}

/* The same of the last 1 to 3 bytes. */
static inline uint32_t qatlab_bytes(const uint8_t *bytes, int32_t size)
{
    uint32_t word = bytes[0];
    if (size > 1) {
        word |= (uint32_t)bytes[1] << 8;
    }
    if (size > 2) {
        word |= (uint32_t)bytes[2] << 16;
    }
    return word;
}

/* The first tap of a window that does not lie in front of the border, and the end of those that do
 * not lie behind it; `start` is where the first tap would be. */
static inline int32_t qatlab_first_tap(int32_t start, int32_t spread)
{
    return start < 0 ? (spread - 1 - start) / spread : 0;
}

static inline int32_t qatlab_end_tap(int32_t start, int32_t spread, int32_t size, int32_t taps)
{
    const int32_t inside = start < size ? (size - start + spread - 1) / spread : 0;
    return inside < taps ? inside : taps;
}

/* The row or column of which one beyond the border is a copy. */
static inline int32_t qatlab_reflect(int32_t at, int32_t size)
{
    const int32_t place = at < 0 ? -at : at;
    return place < size ? place : 2 * (size - 1) - place;
}

static inline int32_t qatlab_replicate(int32_t at, int32_t size)
{
    return at < 0 ? 0 : at < size ? at : size - 1;
}

static inline int32_t qatlab_circular(int32_t at, int32_t size)
{
    return at < 0 ? at + size : at < size ? at : at - size;
}

/* Rounds down; C leaves it open what >> does to a negative number. */
static inline int64_t qatlab_shift(int64_t total, int32_t bits)
{
    return total < 0 ? ~(~total >> bits) : total >> bits;
}

/* The upper half of a product, rounded down. */
static inline int32_t qatlab_high(int32_t number, int32_t factor)
{
    return (int32_t)qatlab_shift((int64_t)number * factor, 32);
}

static inline int32_t qatlab_shift_32(int32_t total, int32_t bits)
{
    return total < 0 ? ~(~total >> bits) : total >> bits;
}

static inline int32_t qatlab_clip_32(int32_t code, int32_t low, int32_t high)
{
    return code < low ? low : code > high ? high : code;
}

/* What lies half way has had the half added, and becomes the even code. */
static inline int64_t qatlab_shift_to_even(int64_t total, int32_t bits)
{
    return qatlab_shift(total - (qatlab_shift(total, bits) & 1), bits);
}

static inline int32_t qatlab_clip(int64_t code, int32_t low, int32_t high)
{
    return code < low ? low : code > high ? high : (int32_t)code;
}

/* Clips and rounds to the nearest whole number, ties to even. */
static inline int32_t qatlab_nearest(double position, int32_t low, int32_t high)
{
    if (position <= (double)low) {
        return low;
    }
    if (position >= (double)high) {
        return high;
    }
    const int32_t whole = (int32_t)position; /* towards 0 */
    const double rest = position - (double)whole;
    if (rest > 0.5 || (rest == 0.5 && whole % 2 != 0)) {
        return whole + 1;
    }
    if (rest < -0.5 || (rest == -0.5 && whole % 2 != 0)) {
        return whole - 1;
    }
    return whole;
}
