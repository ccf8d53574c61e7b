// OpenCV's bilinear resize of 8-bit images in one pass; opencv_resize.py has the definition.
//
// Images may lie in memory in any order; results are dense (N, C, H, W). Compiled by native.py, with
// -ffp-contract=off, so that positions are equal to torch's to the last bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

using index_t = std::int64_t;
using Word = std::uint32_t;  // a pixel, one byte for each of up to four channels

// Both neighbours of each pixel of the result along one axis, and their weights in parts of 2048.
struct Axis {
  std::vector<std::int32_t> lower, upper, weight, other;

  Axis(index_t source, index_t target, bool along_rows) {
    const double scale = 1.0 / (static_cast<double>(target) / static_cast<double>(source));
    const auto last = static_cast<std::int32_t>(source - 1);
    for (index_t i = 0; i < target; ++i) {
      const auto position = static_cast<float>((static_cast<double>(i) + 0.5) * scale - 0.5);
      const float floor = std::floor(position), fraction = position - floor;
      const auto first = static_cast<std::int32_t>(floor);
      lower.push_back(std::clamp(first, 0, last));
      upper.push_back(std::clamp(first + 1, 0, last));
      const bool outside = along_rows && lower.back() == upper.back();
      weight.push_back(outside ? 2048 : static_cast<std::int32_t>(std::rint((1 - fraction) * 2048)));
      other.push_back(outside ? 0 : static_cast<std::int32_t>(std::rint(fraction * 2048)));
    }
  }
  index_t size() const { return static_cast<index_t>(lower.size()); }
};

struct Image {
  const std::uint8_t* bytes;
  index_t columns, along_channels, along_rows, along_columns;  // distances in bytes
};

// Reads rows of an image, up to four channels of it, in the width of the result.
class Rows {
 public:
  Rows(const Image& image, index_t channels, const Axis& x)
      : image_(image), channels_(channels), x_(x), row_(3 * image.columns + 1),
        words_(image.columns), left_(x.size()), right_(x.size()) {}

  // Writes channel by channel; without the last four bits of the sum, 15 are left.
  void read(index_t row, std::int16_t* result) {
    load(image_.bytes + row * image_.along_rows);
    const index_t n = x_.size();
    const std::int32_t *weight = x_.weight.data(), *other = x_.other.data();
    const Word *left = left_.data(), *right = right_.data();
    for (index_t c = 0; c < channels_; ++c, result += n) {
      for (index_t i = 0; i < n; ++i) {
        const std::int32_t a = left[i] >> (8 * c) & 255, b = right[i] >> (8 * c) & 255;
        result[i] = static_cast<std::int16_t>((weight[i] * a + other[i] * b) >> 4);
      }
    }
  }

 private:
  // Collects the neighbours of all pixels.
  void load(const std::uint8_t* start) {
    const index_t n = x_.size();
    const std::int32_t *lower = x_.lower.data(), *upper = x_.upper.data();
    Word *left = left_.data(), *right = right_.data();
    if (channels_ == 3 && image_.along_channels == 1 && image_.along_columns == 3) {
      // As decoders write photographs. A pixel is read with the byte behind it: that is there.
      std::memcpy(row_.data(), start, 3 * image_.columns);
      const std::uint8_t* row = row_.data();
      for (index_t i = 0; i < n; ++i) {
        Word a, b;
        std::memcpy(&a, row + 3 * lower[i], sizeof a);
        std::memcpy(&b, row + 3 * upper[i], sizeof b);
        left[i] = a;
        right[i] = b;
      }
      return;
    }
    std::fill(words_.begin(), words_.end(), 0);
    for (index_t c = 0; c < channels_; ++c, start += image_.along_channels) {
      for (index_t i = 0; i < image_.columns; ++i) {
        words_[i] |= static_cast<Word>(start[i * image_.along_columns]) << (8 * c);
      }
    }
    for (index_t i = 0; i < n; ++i) {
      left[i] = words_[lower[i]];
      right[i] = words_[upper[i]];
    }
  }

  const Image image_;
  const index_t channels_;
  const Axis& x_;
  std::vector<std::uint8_t> row_;
  std::vector<Word> words_, left_, right_;
};

// The weighted sum of two such rows of one channel, in bytes.
void blend(const std::int16_t* upper, const std::int16_t* lower, std::int16_t weight,
           std::int16_t other, index_t n, std::uint8_t* result) {
  for (index_t i = 0; i < n; ++i) {
    const auto above = static_cast<std::int16_t>((weight * upper[i]) >> 16);
    const auto below = static_cast<std::int16_t>((other * lower[i]) >> 16);
    result[i] = static_cast<std::uint8_t>((above + below + 2) >> 2);
  }
}

void resize(const Image& image, index_t channels, const Axis& x, const Axis& y,
            std::uint8_t* result) {
  Rows rows(image, channels, x);
  const index_t width = x.size(), height = y.size();
  std::vector<std::int16_t> memory(2 * channels * width);
  std::int16_t *upper = memory.data(), *lower = upper + channels * width;
  index_t in_upper = -1, in_lower = -1;  // which rows of the image these are
  for (index_t row = 0; row < height; ++row, result += width) {
    if (in_lower == y.lower[row]) {
      std::swap(upper, lower);
      std::swap(in_upper, in_lower);
    }
    if (in_upper != y.lower[row]) rows.read(in_upper = y.lower[row], upper);
    if (in_lower != y.upper[row]) rows.read(in_lower = y.upper[row], lower);
    for (index_t c = 0; c < channels; ++c) {
      blend(upper + c * width, lower + c * width, static_cast<std::int16_t>(y.weight[row]),
            static_cast<std::int16_t>(y.other[row]), width, result + c * width * height);
    }
  }
}

}  // namespace

extern "C" void resize_bilinear(const std::uint8_t* images, std::uint8_t* results, index_t n,
                                index_t channels, index_t rows, index_t columns,
                                index_t along_images, index_t along_channels, index_t along_rows,
                                index_t along_columns, index_t height, index_t width) {
  const Axis x(columns, width, true), y(rows, height, false);
  for (index_t i = 0; i < n; ++i, images += along_images) {
    for (index_t c = 0; c < channels; c += 4) {
      const index_t count = std::min<index_t>(4, channels - c);
      resize({images + c * along_channels, columns, along_channels, along_rows, along_columns},
             count, x, y, results);
      results += count * height * width;
    }
  }
}
