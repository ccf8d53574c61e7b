// Quantizers in one pass over memory each way, for float32 tensors on a CPU; what quantizes
// activations reads and writes bfloat16, too, and computes in float32.
//
// The formulas are those of functional.py, operation by operation, so that forward results are
// equal to the last bit (compiled with -ffp-contract=off); sums run in another order. Pointers are
// to dense memory. Loaded by kernels.py, which declares the same signatures.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

using index_t = std::int64_t;

constexpr index_t BLOCK = 4096;  // elements summed in float before they are added in double
constexpr index_t PARALLEL = 1 << 15;  // elements from which a second thread pays
constexpr float AT_END = 1.0f / (1 << 18);  // that of grid.py

// Lets new memory of a large tensor come in pages of 2 MB, not of 4 KB, each of which the system has
// to find and clear: for hundreds of megabytes that takes longer than to quantize them.
template <class T>
void in_large_pages(T* y, index_t n) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t PAGE = 1 << 21, LARGE = 1 << 25;  // from where malloc maps each tensor
  const auto first = (reinterpret_cast<std::uintptr_t>(y) + PAGE - 1) / PAGE * PAGE;
  const auto end = reinterpret_cast<std::uintptr_t>(y + n) / PAGE * PAGE;
  if (end >= first + LARGE) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  (void)y, (void)n;
#endif
}

// What `fake_quantize` is told; the layout is that of kernels.Settings.
struct Settings {
  float q_min, q_max, divisor, gradient_scale, ewgs;
  std::int32_t closed, residual;
};

// A step and its ends, from the parameter.
struct Step {
  float low, high, inverse, size, offset, ewgs, residual, factor;
  float inside_above, inside_below, passes_above, passes_below;

  Step(const Settings& s, float parameter, float shift) {
    const float smallest = std::ldexp(1.0f, -100);
    const float a = std::fabs(parameter) < smallest ? smallest : std::fabs(parameter);
    low = a * static_cast<float>(static_cast<double>(s.q_min) / s.divisor);
    high = a * static_cast<float>(static_cast<double>(s.q_max) / s.divisor);
    inverse = s.divisor / a;
    size = a / s.divisor;
    const float near = (high - low) * AT_END;
    // Inside is where inside_above < z < inside_below, and x passes likewise.
    inside_above = low + near;
    inside_below = high - near;
    const bool closed_low = s.closed && s.q_min < 0;
    passes_above = closed_low ? std::nextafter(low - near, -INFINITY) : inside_above;
    passes_below = s.closed ? std::nextafter(high + near, INFINITY) : inside_below;
    offset = shift;
    ewgs = s.ewgs / (s.q_max - s.q_min);
    residual = s.residual ? 1.0f : 0.0f;
    const float sign = !s.closed && parameter < 0 ? -1.0f : 1.0f;
    factor = static_cast<float>(static_cast<double>(s.gradient_scale) / s.divisor) * sign;
  }

  // Written so that a NaN stays one, as in torch.
  float clipped(float z) const {
    const float raised = z < low ? low : z;
    return raised > high ? high : raised;
  }
  float quantized(float x) const {
    return std::rint(clipped(x - offset) * inverse) * size + offset;
  }
};

// The upper half of a float; rounded to the nearest, ties to even, as torch does.
using bf16_t = std::uint16_t;

inline float loaded(float x) { return x; }
inline float loaded(bf16_t x) {
  const std::uint32_t whole = static_cast<std::uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &whole, sizeof value);
  return value;
}
inline void store(float& place, float x) { place = x; }
inline void store(bf16_t& place, float x) {
  std::uint32_t whole;
  std::memcpy(&whole, &x, sizeof whole);
  const std::uint32_t rounded = (whole + 0x7fff + ((whole >> 16) & 1)) >> 16;
  place = static_cast<bf16_t>(x == x ? rounded : 0x7fc0);
}

// Gradient of x, and the share of this element in the gradients of step and offset.
template <bool EWGS>
inline float gradient(const Step& s, float x, float g, float& of_step, float& of_offset) {
  const float z = x - s.offset;
  const float v = s.clipped(z) * s.inverse;
  const float index = std::rint(v);
  const bool inside = (z > s.inside_above) & (z < s.inside_below);
  const bool passes = (z > s.passes_above) & (z < s.passes_below);
  of_step = g * (inside ? (index - v) * s.residual : index);
  of_offset = inside ? 0.0f : g;
  float through = g;
  if (EWGS) through += std::fabs(g) * ((v - index) * s.ewgs);
  return passes ? through : 0.0f;
}

template <bool EWGS, class T>
void backward_block(const Step& s, const T* x, const T* g, T* gx, index_t n,
                    double& step_sum, double& offset_sum) {
  float step = 0, offset = 0;
#pragma omp simd reduction(+ : step, offset)
  for (index_t i = 0; i < n; ++i) {
    float of_step, of_offset;
    store(gx[i], gradient<EWGS>(s, loaded(x[i]), loaded(g[i]), of_step, of_offset));
    step += of_step;
    offset += of_offset;
  }
  step_sum += step;
  offset_sum += offset;
}

template <bool EWGS, class T>
void backward_rows(const Settings& settings, const float* parameter, const float* offset,
                   const T* x, const T* g, T* gx, float* g_parameter, float* g_offset,
                   index_t rows, index_t columns, int threads) {
  const index_t blocks = (columns + BLOCK - 1) / BLOCK, total = rows * blocks;
  std::vector<double> step_sums(total), offset_sums(total);  // summed in order: repeatable
#pragma omp parallel for num_threads(threads) if (rows * columns > PARALLEL)
  for (index_t b = 0; b < total; ++b) {
    const index_t row = b / blocks, first = (b % blocks) * BLOCK, at = row * columns + first;
    const index_t n = columns - first < BLOCK ? columns - first : BLOCK;
    const Step s(settings, parameter[row], offset ? offset[0] : 0.0f);
    backward_block<EWGS>(s, x + at, g + at, gx + at, n, step_sums[b], offset_sums[b]);
  }
  double offset_sum = 0;
  for (index_t row = 0; row < rows; ++row) {
    const Step s(settings, parameter[row], 0.0f);
    double step_sum = 0;
    for (index_t b = 0; b < blocks; ++b) {
      step_sum += step_sums[row * blocks + b];
      offset_sum += offset_sums[row * blocks + b];
    }
    g_parameter[row] = static_cast<float>(step_sum * s.factor);
  }
  if (g_offset) g_offset[0] = static_cast<float>(offset_sum * settings.gradient_scale);
}

// x as rows x columns, with a parameter for each row.
template <class T>
void forward_rows(const Settings& settings, const float* parameter, const float* offset, const T* x,
                  T* y, index_t rows, index_t columns, int threads) {
  in_large_pages(y, rows * columns);
  const index_t blocks = (columns + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (rows * columns > PARALLEL)
  for (index_t b = 0; b < rows * blocks; ++b) {
    const index_t row = b / blocks, first = (b % blocks) * BLOCK, at = row * columns + first;
    const index_t n = columns - first < BLOCK ? columns - first : BLOCK;
    const Step s(settings, parameter[row], offset ? offset[0] : 0.0f);
#pragma omp simd
    for (index_t i = at; i < at + n; ++i) store(y[i], s.quantized(loaded(x[i])));
  }
}

// exp after Cephes, for |y| up to 88; error below 2 ulp.
inline float exp_of(float y) {
  const float k = std::rint(y * 1.44269504088896341f);
  const float f = (y - k * 0.693359375f) + k * 2.12194440e-4f;
  float e = 1.9875691500e-4f;
  e = e * f + 1.3981999507e-3f;
  e = e * f + 8.3334519073e-3f;
  e = e * f + 4.1665795894e-2f;
  e = e * f + 1.6666665459e-1f;
  e = e * f + 5.0000001201e-1f;
  e = e * f * f + f + 1.0f;
  const std::int32_t bits = (static_cast<std::int32_t>(k) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return e * power;
}

constexpr float SMALL = 0.625f;  // below it tanh is a polynomial
constexpr index_t SAT_BLOCK = 512;  // weights of which one that is larger costs the exponentials

// tanh after Cephes: a polynomial near 0, else by exp; error below 2 ulp.
template <bool ALL_SMALL>
inline float tanh_of(float x) {
  const float a = std::fabs(x) > 10.0f ? 10.0f : std::fabs(x);
  const float z = a * a;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near = p * z * a + a;
  if (ALL_SMALL) return std::copysign(near, x);
  const float far = 1.0f - 2.0f / (exp_of(2.0f * a) + 1.0f);
  const float t = a < SMALL ? near : far;
  return std::copysign(t, x);
}

// Whether the polynomial is enough for all; a NaN is not small.
bool all_small(const float* w, index_t n) {
  int large = 0;
#pragma omp simd reduction(| : large)
  for (index_t i = 0; i < n; ++i) large |= !(std::fabs(w[i]) < SMALL);
  return !large;
}

// max|w|, NaN if there is one.
float largest_of(const float* w, index_t n, int threads) {
  float largest = 0, poison = 0;
#pragma omp parallel for simd reduction(max : largest) reduction(+ : poison) \
    num_threads(threads) if (n > PARALLEL)
  for (index_t i = 0; i < n; ++i) {
    const float a = std::fabs(w[i]);
    largest = a > largest ? a : largest;
    poison += w[i] * 0.0f;
  }
  return largest + poison;
}

enum class SatGrid : std::int32_t { plain, symmetric, asymmetric, full_range, centered };

template <SatGrid GRID, bool QUANTIZED>
inline float sat_value(float unit, float n, float half) {
  if (GRID == SatGrid::symmetric)
    return QUANTIZED ? std::rint(half * unit) / half : unit;
  if (GRID == SatGrid::asymmetric) {
    const float moved = static_cast<float>(1 + 1 / (2.0 * half)) * unit -
                        static_cast<float>(1 / (2.0 * half));
    return QUANTIZED ? std::rint(half * moved) / half : moved;
  }
  if (!QUANTIZED) return unit;
  float position = (unit + 1.0f) / 2.0f;
  if (GRID == SatGrid::centered) {
    const float index = std::floor((n + 1.0f) * position);
    return (2.0f * (index > n ? n : index) - n) / (n + 1.0f);
  }
  if (GRID == SatGrid::full_range)
    position = static_cast<float>(1 + 0.9998 / n) * position - static_cast<float>(0.4999 / n);
  const float index = std::rint(n * position);
  return (2.0f * (index > n ? n : index) - n) / n;
}

template <SatGrid GRID, bool QUANTIZED, bool ALL_SMALL>
void sat_block_of_size(const float* w, float* q, index_t n, float n_steps, float half,
                       float largest) {
#pragma omp simd
  for (index_t i = 0; i < n; ++i)
    q[i] = sat_value<GRID, QUANTIZED>(tanh_of<ALL_SMALL>(w[i]) / largest, n_steps, half);
}

template <SatGrid GRID, bool QUANTIZED>
void sat_block(const float* w, float* q, index_t n, float n_steps, float half, float largest) {
  const auto block = all_small(w, n) ? sat_block_of_size<GRID, QUANTIZED, true>
                                     : sat_block_of_size<GRID, QUANTIZED, false>;
  block(w, q, n, n_steps, half, largest);
}

template <bool ALL_SMALL>
void sat_backward_block(const float* w, const float* g, float* gw, index_t n, float slope) {
#pragma omp simd
  for (index_t i = 0; i < n; ++i) {
    const float t = tanh_of<ALL_SMALL>(w[i]);
    gw[i] = g[i] * (1.0f - t * t) * slope;
  }
}

using SatBlock = void (*)(const float*, float*, index_t, float, float, float);

template <bool QUANTIZED>
SatBlock sat_block_of(SatGrid grid) {
  switch (grid) {
    case SatGrid::symmetric: return sat_block<SatGrid::symmetric, QUANTIZED>;
    case SatGrid::asymmetric: return sat_block<SatGrid::asymmetric, QUANTIZED>;
    case SatGrid::full_range: return sat_block<SatGrid::full_range, QUANTIZED>;
    case SatGrid::centered: return sat_block<SatGrid::centered, QUANTIZED>;
    default: return sat_block<SatGrid::plain, QUANTIZED>;
  }
}

// The batch norm of one channel, as torch computes it: y = x * scale + shift.
struct Norm {
  float scale, shift;
  Norm(float mean, float inverse_deviation, const float* gamma, const float* beta, index_t c) {
    scale = inverse_deviation * (gamma ? gamma[c] : 1.0f);
    shift = (beta ? beta[c] : 0.0f) - mean * scale;
  }
};

double sum_of(const float* x, index_t n) {
  double total = 0;
  for (index_t first = 0; first < n; first += BLOCK) {
    const index_t last = first + BLOCK < n ? first + BLOCK : n;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (index_t i = first; i < last; ++i) sum += x[i];
    total += sum;
  }
  return total;
}

double squares_of(const float* x, index_t n, float mean) {
  double total = 0;
  for (index_t first = 0; first < n; first += BLOCK) {
    const index_t last = first + BLOCK < n ? first + BLOCK : n;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (index_t i = first; i < last; ++i) sum += (x[i] - mean) * (x[i] - mean);
    total += sum;
  }
  return total;
}

// What stands between a norm and a quantizer; the numbers are those of kernels.FUNCTIONS.
enum class Function : std::int32_t { none, silu, hardswish, gelu, sigmoid, hardsigmoid };

// The value of an activation function, and its slope.
template <Function F>
inline void function_of(float z, float& value, float& slope) {
  value = z, slope = 1.0f;
  if (F == Function::silu || F == Function::sigmoid) {
    const float raised = z < -88.0f ? -88.0f : z;  // a NaN stays one
    const float power = exp_of(-(raised > 88.0f ? 88.0f : raised));
    const float sigmoid = 1.0f / (1.0f + power);
    value = F == Function::silu ? z / (1.0f + power) : sigmoid;
    slope = F == Function::silu ? sigmoid * (1.0f + z * (1.0f - sigmoid))
                                : sigmoid * (1.0f - sigmoid);
  }
  if (F == Function::hardswish || F == Function::hardsigmoid) {
    const float moved = z + 3.0f, raised = moved < 0.0f ? 0.0f : moved;
    const float clipped = raised > 6.0f ? 6.0f : raised;
    const bool inside = (z > -3.0f) & (z < 3.0f);
    value = F == Function::hardswish ? z * clipped / 6.0f : clipped / 6.0f;
    slope = inside ? (F == Function::hardswish ? z / 3.0f + 0.5f : 1.0f / 6.0f)
                   : (F == Function::hardswish && z >= 3.0f ? 1.0f : 0.0f);
  }
  if (F == Function::gelu) {
    // The error function by Abramowitz and Stegun, 7.1.26: error below 1.5e-7.
    const float a = std::fabs(z) > 13.0f ? 13.0f : std::fabs(z);
    const float t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * a);
    const float density = exp_of(-0.5f * a * a);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float beyond = 0.5f * p * t * density;
    const float share = z < 0.0f ? beyond : 1.0f - beyond;
    value = z * share;
    slope = share + z * (density * 0.39894228f);
  }
}

constexpr index_t SHORT = 128;  // elements of a channel below which channels are taken together
constexpr index_t WIDTH = 256;  // elements of an image that are taken together then
constexpr index_t IMAGES = 64;  // summed in float before they are added in double

index_t channels_of_tile(index_t s) {
  if (s >= SHORT) return 1;
  index_t whole = 16;  // channels that fill the widest registers
  for (index_t rest = s; rest % 2 == 0 && whole > 1; rest /= 2) whole /= 2;
  const index_t fit = WIDTH / s;
  return fit < whole ? fit : fit / whole * whole;
}

// Channels of x of (N, C, S) that one thread works on: one, or as many as make rows worth a loop.
struct Tile {
  index_t n, c, s, first, channels, width;
  bool together;

  Tile(index_t n, index_t c, index_t s, index_t first) : n(n), c(c), s(s), first(first) {
    channels = channels_of_tile(s) < c - first ? channels_of_tile(s) : c - first;
    width = channels * s;
    together = s < SHORT;
  }
  index_t at(index_t image) const { return (image * c + first) * s; }

  // Moves what was summed, of each place of a row or of all of it, to the totals of channels.
  void add(float* sums, double* totals) const {
    const index_t each = together ? s : 1;
    for (index_t channel = 0; channel < channels; ++channel) {
      double total = 0;
      for (index_t i = channel * each; i < (channel + 1) * each; ++i) total += sums[i], sums[i] = 0;
      totals[channel] += total;
    }
  }
  // Moves it to the total of all channels.
  void add_all(float* sums, double& total) const {
    const index_t count = together ? width : 1;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (index_t i = 0; i < count; ++i) sum += sums[i], sums[i] = 0;
    total += sum;
  }
  // Sums of x, or of the squares of x - mean.
  void add_sums(const float* x, const float* mean, double* totals) const {
    if (!together) {
      for (index_t i = 0; i < n; ++i)
        *totals += mean ? squares_of(x + at(i), s, *mean) : sum_of(x + at(i), s);
      return;
    }
    float sums[WIDTH] = {};
    for (index_t i = 0; i < n; ++i) {
      const float* from = x + at(i);
      if (mean) {
#pragma omp simd
        for (index_t j = 0; j < width; ++j) sums[j] += (from[j] - mean[j]) * (from[j] - mean[j]);
      } else {
#pragma omp simd
        for (index_t j = 0; j < width; ++j) sums[j] += from[j];
      }
      if (i + 1 == n || (i + 1) % IMAGES == 0) add(sums, totals);
    }
  }
};

// A number of each channel of a tile, for each place of a row if channels are taken together.
struct Spread {
  float values[WIDTH];
  index_t each;

  explicit Spread(const Tile& tile) : each(tile.together ? tile.s : 1) {}
  void fill(index_t channel, float value) {
    for (index_t i = channel * each; i < (channel + 1) * each; ++i) values[i] = value;
  }
};

// Of the gradients h that reach a norm, of h * (x - mean), and of what is learned.
struct Sums {
  float total[WIDTH] = {}, product[WIDTH] = {}, step[WIDTH] = {}, offset[WIDTH] = {};
};

using ForwardRow = void (*)(const Step&, const float*, float*, index_t, const float*,
                            const float*);
using BackwardRow = void (*)(const Step&, const float*, const float*, float*, index_t,
                             const float*, const float*, const float*, Sums&);

template <Function F, bool TOGETHER>
void forward_row(const Step& step, const float* x, float* y, index_t n, const float* scale,
                 const float* shift) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) {
    const index_t k = TOGETHER ? j : 0;
    float value, slope;
    function_of<F>(x[j] * scale[k] + shift[k], value, slope);
    y[j] = step.quantized(value);
  }
}

template <Function F, bool EWGS>
inline float normed_gradient(const Step& step, float z, float g, float& of_step,
                             float& of_offset) {
  float value, slope;
  function_of<F>(z, value, slope);
  const float h = gradient<EWGS>(step, value, g, of_step, of_offset);
  return F == Function::none ? h : h * slope;
}

template <Function F, bool EWGS, bool TOGETHER>
void backward_row(const Step& step, const float* x, const float* g, float* gx, index_t n,
                  const float* mean, const float* scale, const float* shift, Sums& sums) {
  if (TOGETHER) {
#pragma omp simd
    for (index_t j = 0; j < n; ++j) {
      float a, b;
      const float h = normed_gradient<F, EWGS>(step, x[j] * scale[j] + shift[j], g[j], a, b);
      gx[j] = h;
      sums.total[j] += h;
      sums.product[j] += h * (x[j] - mean[j]);
      sums.step[j] += a;
      sums.offset[j] += b;
    }
    return;
  }
  float total = 0, product = 0, of_step = 0, of_offset = 0;
#pragma omp simd reduction(+ : total, product, of_step, of_offset)
  for (index_t j = 0; j < n; ++j) {
    float a, b;
    const float h = normed_gradient<F, EWGS>(step, x[j] * *scale + *shift, g[j], a, b);
    gx[j] = h;
    total += h;
    product += h * (x[j] - *mean);
    of_step += a;
    of_offset += b;
  }
  sums.total[0] = total, sums.product[0] = product;
  sums.step[0] = of_step, sums.offset[0] = of_offset;
}

template <bool TOGETHER>
void through_norm(const float* x, float* gx, index_t n, const float* mean, const float* scale,
                  const float* average, const float* slope) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) {
    const index_t k = TOGETHER ? j : 0;
    gx[j] = (gx[j] - average[k] - (x[j] - mean[k]) * slope[k]) * scale[k];
  }
}

template <Function F>
ForwardRow forward_row_with(bool together) {
  return together ? forward_row<F, true> : forward_row<F, false>;
}

ForwardRow forward_row_of(Function function, bool together) {
  switch (function) {
    case Function::silu: return forward_row_with<Function::silu>(together);
    case Function::hardswish: return forward_row_with<Function::hardswish>(together);
    case Function::gelu: return forward_row_with<Function::gelu>(together);
    case Function::sigmoid: return forward_row_with<Function::sigmoid>(together);
    case Function::hardsigmoid: return forward_row_with<Function::hardsigmoid>(together);
    default: return forward_row_with<Function::none>(together);
  }
}

template <Function F>
BackwardRow backward_row_with(bool ewgs, bool together) {
  if (ewgs) return together ? backward_row<F, true, true> : backward_row<F, true, false>;
  return together ? backward_row<F, false, true> : backward_row<F, false, false>;
}

BackwardRow backward_row_of(Function function, bool ewgs, bool together) {
  switch (function) {
    case Function::silu: return backward_row_with<Function::silu>(ewgs, together);
    case Function::hardswish: return backward_row_with<Function::hardswish>(ewgs, together);
    case Function::gelu: return backward_row_with<Function::gelu>(ewgs, together);
    case Function::sigmoid: return backward_row_with<Function::sigmoid>(ewgs, together);
    case Function::hardsigmoid: return backward_row_with<Function::hardsigmoid>(ewgs, together);
    default: return backward_row_with<Function::none>(ewgs, together);
  }
}

// What a batch norm knows beside its input. Means and inverse deviations are computed from the
// batch, and the running statistics moved; with a momentum of -1 they are the running ones, with -2
// those that are given.
struct Statistics {
  const float *gamma, *beta;
  float eps, momentum;
  float *running_mean, *running_variance, *means, *inverses;

  // The statistics of a channel, of which `count` values have this average and variance.
  void found(index_t channel, double average, double variance, double count) const {
    means[channel] = static_cast<float>(average);
    inverses[channel] = static_cast<float>(1 / std::sqrt(variance + eps));
    const double unbiased = variance * count / (count - 1), keeps = 1.0 - momentum;
    running_mean[channel] = static_cast<float>(momentum * average + keeps * running_mean[channel]);
    running_variance[channel] =
        static_cast<float>(momentum * unbiased + keeps * running_variance[channel]);
  }
  Norm norm(index_t channel) const {
    if (momentum < 0 && momentum > -1.5f) {
      means[channel] = running_mean[channel];
      inverses[channel] = 1.0f / std::sqrt(running_variance[channel] + eps);
    }
    return Norm(means[channel], inverses[channel], gamma, beta, channel);
  }
};

// x as rows x channels, which is how NHWC lies. Of up to WIDTH channels as many rows as fill WIDTH
// are taken together, so that a number of each channel stands there as often; of more channels, a
// tile of WIDTH. A chunk is IMAGES of these, and the sums of chunks are added in order: repeatable.
struct Chunks {
  index_t rows, c, width, tiles, chunks;

  Chunks(index_t rows, index_t c) : rows(rows), c(c) {
    width = c <= WIDTH ? WIDTH / c * c : WIDTH;
    tiles = (c + WIDTH - 1) / WIDTH;
    const index_t lines = tiles > 1 ? rows : (rows * c + width - 1) / width;
    chunks = (lines + IMAGES - 1) / IMAGES;
  }
  index_t channels(index_t tile) const {
    return c - tile * WIDTH < WIDTH ? c - tile * WIDTH : WIDTH;
  }

  // Calls of(at, width) for each line of a chunk.
  template <class Of>
  void lines(index_t chunk, index_t tile, Of of) const {
    if (tiles > 1) {
      const index_t last = (chunk + 1) * IMAGES < rows ? (chunk + 1) * IMAGES : rows;
      for (index_t row = chunk * IMAGES; row < last; ++row)
        of(row * c + tile * WIDTH, channels(tile));
      return;
    }
    const index_t end = rows * c, past = (chunk + 1) * IMAGES * width;
    for (index_t at = chunk * IMAGES * width; at < past && at < end; at += width)
      of(at, end - at < width ? end - at : width);
  }
  // Calls of(chunk, tile) for all, in parallel.
  template <class Of>
  void each(int threads, Of of) const {
#pragma omp parallel for num_threads(threads) if (rows * c > PARALLEL)
    for (index_t number = 0; number < chunks * tiles; ++number) of(number / tiles, number % tiles);
  }
  // Repeats a number of each channel over the places of a line.
  template <class Of>
  std::vector<float> spread(Of of) const {
    std::vector<float> values(tiles * WIDTH);
    for (index_t tile = 0; tile < tiles; ++tile)
      for (index_t j = 0; j < WIDTH; ++j)
        values[tile * WIDTH + j] = of(tile * WIDTH + j % channels(tile));
    return values;
  }
};

// Sums of each channel, from what chunks have summed of each place of their lines.
struct ChannelSums {
  const Chunks& chunks;
  std::vector<double> parts;

  explicit ChannelSums(const Chunks& chunks) : chunks(chunks), parts(chunks.chunks * chunks.c) {}
  void add(index_t chunk, index_t tile, const float* sums) {
    double* part = parts.data() + chunk * chunks.c + tile * WIDTH;
    const index_t channels = chunks.channels(tile);
    const index_t width = chunks.tiles > 1 ? channels : chunks.width;
    for (index_t first = 0; first < width; first += channels)
      for (index_t j = 0; j < channels; ++j) part[j] += sums[first + j];
  }
  std::vector<double> totals() const {
    std::vector<double> all(chunks.c);
    for (index_t i = 0; i < chunks.chunks; ++i)
      for (index_t j = 0; j < chunks.c; ++j) all[j] += parts[i * chunks.c + j];
    return all;
  }
};

// A line in float32: itself, or a copy that is read and written.
template <class T>
struct Line;

template <>
struct Line<float> {
  const float* read(const float* x, index_t) { return x; }
  float* place(float* y) { return y; }
  void write(float*, index_t) {}
};

template <>
struct Line<bf16_t> {
  float values[WIDTH] = {};

  const float* read(const bf16_t* x, index_t width) {
#pragma omp simd
    for (index_t j = 0; j < width; ++j) values[j] = loaded(x[j]);
    return values;
  }
  float* place(bf16_t*) { return values; }
  void write(bf16_t* y, index_t width) {
#pragma omp simd
    for (index_t j = 0; j < width; ++j) store(y[j], values[j]);
  }
};

template <class T>
void rows_forward(const Settings& settings, const float* parameter, const float* offset, const T* x,
                  T* y, index_t rows, index_t c, Function function, const Statistics& statistics,
                  int threads) {
  in_large_pages(y, rows * c);
  const Step step(settings, *parameter, offset ? *offset : 0.0f);
  const Chunks chunks(rows, c);
  if (statistics.momentum >= 0) {
    ChannelSums sums(chunks), squares(chunks);
    chunks.each(threads, [&](index_t chunk, index_t tile) {
      float total[WIDTH] = {};
      chunks.lines(chunk, tile, [&](index_t at, index_t width) {
#pragma omp simd
        for (index_t j = 0; j < width; ++j) total[j] += loaded(x[at + j]);
      });
      sums.add(chunk, tile, total);
    });
    const std::vector<double> totals = sums.totals();
    const std::vector<float> mean =
        chunks.spread([&](index_t channel) { return static_cast<float>(totals[channel] / rows); });
    chunks.each(threads, [&](index_t chunk, index_t tile) {
      float total[WIDTH] = {};
      const float* means = mean.data() + tile * WIDTH;
      chunks.lines(chunk, tile, [&](index_t at, index_t width) {
#pragma omp simd
        for (index_t j = 0; j < width; ++j) {
          const float distance = loaded(x[at + j]) - means[j];
          total[j] += distance * distance;
        }
      });
      squares.add(chunk, tile, total);
    });
    const std::vector<double> variances = squares.totals();
    for (index_t i = 0; i < c; ++i)
      statistics.found(i, totals[i] / rows, variances[i] / rows, static_cast<double>(rows));
  }
  std::vector<float> scales(c), shifts(c);
  for (index_t i = 0; i < c; ++i) {
    const Norm norm = statistics.norm(i);
    scales[i] = norm.scale, shifts[i] = norm.shift;
  }
  const auto scale = chunks.spread([&](index_t channel) { return scales[channel]; });
  const auto shift = chunks.spread([&](index_t channel) { return shifts[channel]; });
  const ForwardRow row = forward_row_of(function, true);
  chunks.each(threads, [&](index_t chunk, index_t tile) {
    const index_t at_tile = tile * WIDTH;
    Line<T> values, result;
    chunks.lines(chunk, tile, [&](index_t at, index_t width) {
      row(step, values.read(x + at, width), result.place(y + at), width, scale.data() + at_tile,
          shift.data() + at_tile);
      result.write(y + at, width);
    });
  });
}

template <class T>
void rows_backward(const Settings& settings, const float* parameter, const float* offset, const T* x,
                   const T* g, T* gx, index_t rows, index_t c, Function function,
                   const float* gamma, const float* beta, const float* means,
                   const float* inverses, float* g_gamma, float* g_beta, float* g_parameter,
                   float* g_offset, int threads) {
  in_large_pages(gx, rows * c);
  const Step step(settings, *parameter, offset ? *offset : 0.0f);
  const Chunks chunks(rows, c);
  std::vector<float> scales(c), shifts(c);
  for (index_t i = 0; i < c; ++i) {
    const Norm norm(means[i], inverses[i], gamma, beta, i);
    scales[i] = norm.scale, shifts[i] = norm.shift;
  }
  const auto mean = chunks.spread([&](index_t channel) { return means[channel]; });
  const auto scale = chunks.spread([&](index_t channel) { return scales[channel]; });
  const auto shift = chunks.spread([&](index_t channel) { return shifts[channel]; });
  ChannelSums total(chunks), product(chunks);
  std::vector<double> step_sums(chunks.chunks * chunks.tiles), offset_sums(step_sums.size());
  const BackwardRow row = backward_row_of(function, settings.ewgs != 0, true);
  chunks.each(threads, [&](index_t chunk, index_t tile) {
    const index_t at_tile = tile * WIDTH, number = chunk * chunks.tiles + tile;
    Sums sums;
    Line<T> values, gradients, result;
    chunks.lines(chunk, tile, [&](index_t at, index_t width) {
      row(step, values.read(x + at, width), gradients.read(g + at, width), result.place(gx + at),
          width, mean.data() + at_tile, scale.data() + at_tile, shift.data() + at_tile, sums);
      result.write(gx + at, width);
    });
    total.add(chunk, tile, sums.total), product.add(chunk, tile, sums.product);
    step_sums[number] = sum_of(sums.step, WIDTH), offset_sums[number] = sum_of(sums.offset, WIDTH);
  });
  // gx = scale * (h - mean(h) - x^ * mean(h * x^)),   x^ = (x - mean) * inverse
  const std::vector<double> totals = total.totals(), products = product.totals();
  for (index_t i = 0; i < c; ++i) {
    if (g_gamma) g_gamma[i] = static_cast<float>(products[i] * inverses[i]);
    if (g_beta) g_beta[i] = static_cast<float>(totals[i]);
  }
  const auto average =
      chunks.spread([&](index_t i) { return static_cast<float>(totals[i] / rows); });
  const auto slope = chunks.spread([&](index_t i) {
    const double inverse = inverses[i];
    return static_cast<float>(products[i] * inverse * inverse / rows);
  });
  chunks.each(threads, [&](index_t chunk, index_t tile) {
    const index_t at_tile = tile * WIDTH;
    Line<T> values, result;
    chunks.lines(chunk, tile, [&](index_t at, index_t width) {
      result.read(gx + at, width);
      through_norm<true>(values.read(x + at, width), result.place(gx + at), width,
                         mean.data() + at_tile, scale.data() + at_tile,
                         average.data() + at_tile, slope.data() + at_tile);
      result.write(gx + at, width);
    });
  });
  double step_sum = 0, offset_sum = 0;
  for (const double sum : step_sums) step_sum += sum;
  for (const double sum : offset_sums) offset_sum += sum;
  *g_parameter = static_cast<float>(step_sum * step.factor);
  if (g_offset) *g_offset = static_cast<float>(offset_sum * settings.gradient_scale);
}

// The sum over blocks of what `of` returns for one, added in order: repeatable.
template <class Of>
double sum_of_blocks(index_t n, int threads, Of of) {
  const index_t blocks = (n + BLOCK - 1) / BLOCK;
  std::vector<double> sums(blocks);
#pragma omp parallel for num_threads(threads) if (n > PARALLEL)
  for (index_t b = 0; b < blocks; ++b)
    sums[b] = of(b * BLOCK, n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

extern "C" {

// Has new memory come in large pages when it is written.
void large_pages(float* y, index_t n, int) { in_large_pages(y, n); }

// x as rows x columns, with a parameter for each row.
void fake_quantize_forward(const Settings* settings, const float* parameter, const float* offset,
                           const float* x, float* y, index_t rows, index_t columns, int threads) {
  forward_rows(*settings, parameter, offset, x, y, rows, columns, threads);
}

void fake_quantize_forward_bf16(const Settings* settings, const float* parameter,
                                const float* offset, const bf16_t* x, bf16_t* y, index_t rows,
                                index_t columns, int threads) {
  forward_rows(*settings, parameter, offset, x, y, rows, columns, threads);
}

void fake_quantize_backward(const Settings* settings, const float* parameter, const float* offset,
                            const float* x, const float* g, float* gx, float* g_parameter,
                            float* g_offset, index_t rows, index_t columns, int threads) {
  in_large_pages(gx, rows * columns);
  const auto run = settings->ewgs != 0 ? backward_rows<true, float> : backward_rows<false, float>;
  run(*settings, parameter, offset, x, g, gx, g_parameter, g_offset, rows, columns, threads);
}

void fake_quantize_backward_bf16(const Settings* settings, const float* parameter,
                                 const float* offset, const bf16_t* x, const bf16_t* g, bf16_t* gx,
                                 float* g_parameter, float* g_offset, index_t rows,
                                 index_t columns, int threads) {
  in_large_pages(gx, rows * columns);
  const auto run = settings->ewgs != 0 ? backward_rows<true, bf16_t> : backward_rows<false, bf16_t>;
  run(*settings, parameter, offset, x, g, gx, g_parameter, g_offset, rows, columns, threads);
}

// `found` holds what the derivative of tanh is multiplied by, the largest tanh, and the constant of
// scaling; the last two are read if they are known from an earlier call.
void sat_weight_forward(const float* w, float* q, float* found, index_t n, std::int32_t known,
                        std::int32_t n_steps, std::int32_t grid, std::int32_t quantized, float fan,
                        int threads) {
  in_large_pages(q, n);
  if (!known) found[1] = tanh_of<false>(largest_of(w, n, threads));
  if (found[1] < std::ldexp(1.0f, -100)) found[1] = NAN;  // as sat_largest
  const float largest = found[1];
  const float steps = static_cast<float>(n_steps), half = static_cast<float>(n_steps / 2);
  const auto kind = static_cast<SatGrid>(grid);
  const SatBlock block = quantized ? sat_block_of<true>(kind) : sat_block_of<false>(kind);
#pragma omp parallel for num_threads(threads) if (n > PARALLEL)
  for (index_t first = 0; first < n; first += SAT_BLOCK)
    block(w + first, q + first, n - first < SAT_BLOCK ? n - first : SAT_BLOCK, steps, half,
          largest);
  double factor = 1;
  if (kind == SatGrid::asymmetric) factor = 1 + 1 / (2.0 * half);
  if (kind == SatGrid::full_range) factor = 1 + 0.9998 / n_steps;  // clamped, too, as in N2D2
  found[0] = static_cast<float>(factor / largest);
  if (fan > 0) {  // constant scaling
    if (!known) {
      const auto mean = static_cast<float>(
          sum_of_blocks(n, threads, [q](index_t i, index_t m) { return sum_of(q + i, m); }) / n);
      const double squares = sum_of_blocks(
          n, threads, [q, mean](index_t i, index_t m) { return squares_of(q + i, m, mean); });
      found[2] = static_cast<float>(std::sqrt(squares / (n - 1) * fan));
    }
    const float scale = found[2];
#pragma omp parallel for simd num_threads(threads) if (n > PARALLEL)
    for (index_t i = 0; i < n; ++i) q[i] = q[i] / scale;
    found[0] = static_cast<float>(factor / largest / scale);
  }
}

void sat_weight_backward(const float* w, const float* g, float* gw, const float* slope, index_t n,
                         int threads) {
  in_large_pages(gw, n);
#pragma omp parallel for num_threads(threads) if (n > PARALLEL)
  for (index_t first = 0; first < n; first += SAT_BLOCK) {
    const index_t count = n - first < SAT_BLOCK ? n - first : SAT_BLOCK;
    const auto block =
        all_small(w + first, count) ? sat_backward_block<true> : sat_backward_block<false>;
    block(w + first, g + first, gw + first, count, *slope);
  }
}

// Batch norm, activation function and quantizer, x of (N, C, S); see Statistics.
void norm_quantize_forward(const Settings* settings, const float* parameter, const float* offset,
                           const float* x, float* y, index_t n, index_t c, index_t s,
                           std::int32_t function, const float* gamma, const float* beta, float eps,
                           float momentum, float* running_mean, float* running_variance,
                           float* means, float* inverses, int threads) {
  const double count = static_cast<double>(n) * s;
  const Statistics statistics = {gamma,        beta,             eps,   momentum,
                                 running_mean, running_variance, means, inverses};
  const Step step(*settings, *parameter, offset ? *offset : 0.0f);
  const ForwardRow row = forward_row_of(static_cast<Function>(function), s < SHORT);
  const index_t channels = channels_of_tile(s), tiles = (c + channels - 1) / channels;
#pragma omp parallel for num_threads(threads) if (n * c * s > PARALLEL)
  for (index_t number = 0; number < tiles; ++number) {
    const Tile tile(n, c, s, number * channels);
    Spread mean(tile), scale(tile), shift(tile);
    if (momentum >= 0) {
      double sums[WIDTH] = {}, squares[WIDTH] = {};
      tile.add_sums(x, nullptr, sums);
      for (index_t i = 0; i < tile.channels; ++i) mean.fill(i, static_cast<float>(sums[i] / count));
      tile.add_sums(x, mean.values, squares);
      for (index_t i = 0; i < tile.channels; ++i)
        statistics.found(tile.first + i, sums[i] / count, squares[i] / count, count);
    }
    for (index_t i = 0; i < tile.channels; ++i) {
      const Norm norm = statistics.norm(tile.first + i);
      scale.fill(i, norm.scale), shift.fill(i, norm.shift);
    }
    for (index_t i = 0; i < n; ++i)
      row(step, x + tile.at(i), y + tile.at(i), tile.width, scale.values, shift.values);
  }
}

void norm_quantize_backward(const Settings* settings, const float* parameter, const float* offset,
                            const float* x, const float* g, float* gx, index_t n, index_t c,
                            index_t s, std::int32_t function, const float* gamma,
                            const float* beta, const float* means, const float* inverses,
                            float* g_gamma, float* g_beta, float* g_parameter, float* g_offset,
                            int threads) {
  const double count = static_cast<double>(n) * s;
  const Step step(*settings, *parameter, offset ? *offset : 0.0f);
  const BackwardRow row =
      backward_row_of(static_cast<Function>(function), settings->ewgs != 0, s < SHORT);
  const auto through = s < SHORT ? through_norm<true> : through_norm<false>;
  const index_t channels = channels_of_tile(s), tiles = (c + channels - 1) / channels;
  std::vector<double> step_sums(tiles), offset_sums(tiles);
#pragma omp parallel for num_threads(threads) if (n * c * s > PARALLEL)
  for (index_t number = 0; number < tiles; ++number) {
    const Tile tile(n, c, s, number * channels);
    Spread mean(tile), scale(tile), shift(tile), average(tile), slope(tile);
    for (index_t i = 0, channel = tile.first; i < tile.channels; ++i, ++channel) {
      const Norm norm(means[channel], inverses[channel], gamma, beta, channel);
      mean.fill(i, means[channel]), scale.fill(i, norm.scale), shift.fill(i, norm.shift);
    }
    double totals[WIDTH] = {}, products[WIDTH] = {};
    Sums sums;
    for (index_t i = 0; i < n; ++i)
      for (index_t first = 0; first < tile.width; first += BLOCK) {
        const index_t at = tile.at(i) + first;
        const index_t width = tile.width - first < BLOCK ? tile.width - first : BLOCK;
        row(step, x + at, g + at, gx + at, width, mean.values, scale.values, shift.values, sums);
        if (tile.together && i + 1 < n && (i + 1) % IMAGES > 0) continue;
        tile.add(sums.total, totals), tile.add(sums.product, products);
        tile.add_all(sums.step, step_sums[number]), tile.add_all(sums.offset, offset_sums[number]);
      }
    // gx = scale * (h - mean(h) - x^ * mean(h * x^)),   x^ = (x - mean) * inverse
    for (index_t i = 0, channel = tile.first; i < tile.channels; ++i, ++channel) {
      const double inverse = inverses[channel];
      if (g_gamma) g_gamma[channel] = static_cast<float>(products[i] * inverse);
      if (g_beta) g_beta[channel] = static_cast<float>(totals[i]);
      average.fill(i, static_cast<float>(totals[i] / count));
      slope.fill(i, static_cast<float>(products[i] * inverse * inverse / count));
    }
    for (index_t i = 0; i < n; ++i)
      through(x + tile.at(i), gx + tile.at(i), tile.width, mean.values, scale.values,
              average.values, slope.values);
  }
  double step_sum = 0, offset_sum = 0;
  for (index_t number = 0; number < tiles; ++number) {
    step_sum += step_sums[number];
    offset_sum += offset_sums[number];
  }
  *g_parameter = static_cast<float>(step_sum * step.factor);
  if (g_offset) *g_offset = static_cast<float>(offset_sum * settings->gradient_scale);
}

#define ROWS_FORWARD(NAME, T)                                                                     \
  void NAME(const Settings* settings, const float* parameter, const float* offset, const T* x,    \
            T* y, index_t rows, index_t c, std::int32_t function, const float* gamma,             \
            const float* beta, float eps, float momentum, float* running_mean,                    \
            float* running_variance, float* means, float* inverses, int threads) {                \
    const Statistics statistics = {gamma,        beta,             eps,   momentum,               \
                                   running_mean, running_variance, means, inverses};              \
    rows_forward(*settings, parameter, offset, x, y, rows, c, static_cast<Function>(function),    \
                 statistics, threads);                                                            \
  }
#define ROWS_BACKWARD(NAME, T)                                                                    \
  void NAME(const Settings* settings, const float* parameter, const float* offset, const T* x,    \
            const T* g, T* gx, index_t rows, index_t c, std::int32_t function,                    \
            const float* gamma, const float* beta, const float* means, const float* inverses,     \
            float* g_gamma, float* g_beta, float* g_parameter, float* g_offset, int threads) {    \
    rows_backward(*settings, parameter, offset, x, g, gx, rows, c,                                \
                  static_cast<Function>(function), gamma, beta, means, inverses, g_gamma, g_beta, \
                  g_parameter, g_offset, threads);                                                \
  }

// The same of (rows, C): of NHWC.
ROWS_FORWARD(norm_quantize_rows_forward, float)
ROWS_FORWARD(norm_quantize_rows_forward_bf16, bf16_t)
ROWS_BACKWARD(norm_quantize_rows_backward, float)
ROWS_BACKWARD(norm_quantize_rows_backward_bf16, bf16_t)

// Activation function and quantizer, without a norm.
void function_quantize_forward(const Settings* settings, const float* parameter,
                               const float* offset, const float* x, float* y, index_t n,
                               std::int32_t function, int threads) {
  const Step step(*settings, *parameter, offset ? *offset : 0.0f);
  const ForwardRow row = forward_row_of(static_cast<Function>(function), false);
  const float one = 1, zero = 0;
#pragma omp parallel for num_threads(threads) if (n > PARALLEL)
  for (index_t at = 0; at < n; at += BLOCK)
    row(step, x + at, y + at, n - at < BLOCK ? n - at : BLOCK, &one, &zero);
}

void function_quantize_backward(const Settings* settings, const float* parameter,
                                const float* offset, const float* x, const float* g, float* gx,
                                index_t n, std::int32_t function, float* g_parameter,
                                float* g_offset, int threads) {
  const Step step(*settings, *parameter, offset ? *offset : 0.0f);
  const BackwardRow row =
      backward_row_of(static_cast<Function>(function), settings->ewgs != 0, false);
  const float one = 1, zero = 0;
  const index_t blocks = (n + BLOCK - 1) / BLOCK;
  std::vector<double> step_sums(blocks), offset_sums(blocks);
#pragma omp parallel for num_threads(threads) if (n > PARALLEL)
  for (index_t b = 0; b < blocks; ++b) {
    const index_t at = b * BLOCK;
    Sums sums;
    row(step, x + at, g + at, gx + at, n - at < BLOCK ? n - at : BLOCK, &zero, &one, &zero, sums);
    step_sums[b] = sums.step[0], offset_sums[b] = sums.offset[0];
  }
  double step_sum = 0, offset_sum = 0;
  for (index_t b = 0; b < blocks; ++b) {
    step_sum += step_sums[b];
    offset_sum += offset_sums[b];
  }
  *g_parameter = static_cast<float>(step_sum * step.factor);
  if (g_offset) *g_offset = static_cast<float>(offset_sum * settings->gradient_scale);
}

// Indices of values on a grid, from q_min on, `width` bits each: 1, 2, 4 or 8.
void encode(const Settings* settings, const float* parameter, const float* offset, const float* y,
            std::uint8_t* codes, index_t n, std::int32_t width, int threads) {
  const Step s(*settings, *parameter, offset ? *offset : 0.0f);
  const float lowest = settings->q_min;
  const index_t each = 8 / width, bytes = (n + each - 1) / each;
#pragma omp parallel for simd num_threads(threads) if (n > PARALLEL)
  for (index_t i = 0; i < bytes; ++i) {
    std::uint32_t byte = 0;
    for (index_t j = 0; j < each; ++j) {
      const index_t at = i * each + j < n ? i * each + j : n - 1;
      const float index = std::rint((y[at] - s.offset) * s.inverse) - lowest;
      byte |= static_cast<std::uint32_t>(static_cast<std::int32_t>(index)) << (j * width);
    }
    codes[i] = static_cast<std::uint8_t>(byte);
  }
}

void decode(const Settings* settings, const float* parameter, const float* offset,
            const std::uint8_t* codes, float* y, index_t n, std::int32_t width, int threads) {
  const Step s(*settings, *parameter, offset ? *offset : 0.0f);
  const float lowest = settings->q_min;
  const std::int32_t mask = (1 << width) - 1, each = 8 / width, shift = width == 8   ? 0
                                                                        : width == 4 ? 1
                                                                        : width == 2 ? 2
                                                                                     : 3;
#pragma omp parallel for simd num_threads(threads) if (n > PARALLEL)
  for (index_t i = 0; i < n; ++i) {
    const std::int32_t code = (codes[i >> shift] >> ((i & (each - 1)) * width)) & mask;
    y[i] = (static_cast<float>(code) + lowest) * s.size + s.offset;
  }
}
}
