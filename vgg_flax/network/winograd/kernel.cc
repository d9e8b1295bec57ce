// The frozen convolutions of VGG on a CPU: 3x3, stride 1, SAME, with bias, ReLU and the 2x2 max-pool that ends a block.
//
// Algorithm. Winograd's F(4x4,3x3): an output tile of 4x4 pixels comes from an input tile d of 6x6 by
//
//     Y = A^T [ (G g G^T) . (B^T d B) ] A                                  (Lavin & Gray 2016, arXiv:1509.09308)
//
// where . is element-wise, so that with channels each of the 36 elements is one matrix product over the input
// channels: 36 multiplications where the definition has 144. The interpolation points are 0, +-sqrt2, +-1/sqrt2 and
// infinity; they cost what the usual 0, +-1, +-2 cost and round about half as badly (error analysis: Barabasz et al.,
// arXiv:1803.10986; points c and 1/c: Alam et al., arXiv:2201.10369). The filters U = G g G^T arrive transformed. The
// first layer has too few channels to win that way; it is a direct convolution through the same inner kernel.
//
// Blocking. Channels are padded to panels of 16, a 64-byte line. U is [36][panel][in][16]; the transformed input V is
// [36][tile][in] and its products M are [36][tile][out], read and written where they lie: the inner kernel keeps
// kRows tiles x kPanels panels of M in registers, streams its panel of U and broadcasts from rows of V, and asks for
// the panel after this one while it works, since U is the one operand too big for a core's own cache. Two schedules:
//   * strips, where pixels outweigh weights: a thread takes some tiles through all three steps, V and M staying in
//     its cache. Nothing is shared but the weights.
//   * shared, where weights outweigh the tiles of one image: the tiles of several images form one matrix, and threads
//     divide U instead, so that a pass over the weights serves all of them.
// The early layers run on few images at a time and the late ones on more, in groups, so scratch memory does not grow
// with the batch. No result depends on the schedule: each element of M is one chain of fused multiply-adds over the
// input channels, in order, whoever computes it. Hence equal bits for any batch size and number of threads.
//
// Threading. A call is a list of phases, each a number of independent items. Every worker walks the whole list, takes
// items by an atomic counter, and goes on to the next phase when all items of this one are done. The calling thread is
// a worker too, and helpers from XLA's pool join whenever the pool gets round to them, or never: a late one finds
// nothing left and leaves. So a busy pool costs speed but can't cause a deadlock. All memory belongs to the call.
//
// NaN and infinity. An input tile that holds one, or that overflows on the way, makes some output of the tile
// non-finite, because every element of d takes part in some Y with a coefficient that is not zero. Winograd would smear
// it over the tile; so tiles with a non-finite output are computed again by definition, from the raw filters.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

// The inner kernel's block must leave registers for its operands: 28 of 32, 12 of 16, and 24 of 32 accumulators.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 14, kPanels = 2;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 8, kRows = 6, kPanels = 1;
#elif defined(__ARM_NEON) && defined(__aarch64__)
constexpr int kLanes = 4, kRows = 6, kPanels = 1;
#else
#error "this processor has none of AVX2 with FMA, AVX-512 and 64-bit NEON"
#endif

using Index = std::ptrdiff_t;
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));

constexpr int kTile = 4, kPatch = kTile + 2, kPlanes = kPatch * kPatch;
constexpr int kPanel = 16, kParts = kPanel / kLanes;
constexpr Index kStripTiles = 42;    // enough rows for the inner kernel; V and M stay near a second-level cache
constexpr Index kSharedTiles = 128;  // enough rows to hide the reading of U behind the arithmetic
constexpr Index kSubgroupPixels = 224 * 224 / 2;  // a thread; the early activations of two threads then fit in an L3
constexpr Index kCacheLine = 64;

constexpr float kSqrt2 = 1.41421356237309505f, kSqrtHalf = 0.70710678118654752f;

inline Vec load(const float* from) {
  Vec value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void store(float* to, Vec value) { std::memcpy(to, &value, sizeof value); }

// Both let NaN pass, as XLA's maximum does and x86's does not.
inline Vec relu(Vec x) { return x < 0.0f ? Vec{} : x; }
inline Vec maximum(Vec a, Vec b) { return (a > b) | (a != a) ? a : b; }

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
inline Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

struct FreeDeleter {
  void operator()(float* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<float[], FreeDeleter>;

Buffer allocate(Index floats) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kCacheLine, floats * sizeof(float)) != 0) throw std::bad_alloc();
  return Buffer(static_cast<float*>(memory));
}

// ---------------------------------------------------------------------------------------------------- one layer

struct Layer {
  Index height = 0, width = 0;          // of its input and its convolution
  Index in_channels = 0;                // real ones, of the raw filters
  Index in_stride = 0, out_stride = 0;  // floats from pixel to pixel: padded channels, but for the images themselves
  bool pool = false, shared = false;
  const float* filters = nullptr;       // [panel][3][3][in_channels][16]
  const float* transformed = nullptr;   // [36][panel][in_stride][16]; null where the layer is direct
  std::vector<float> bias;              // [out_stride]

  // Image i stands at slot i % slots: every image in the call's own input and results, a group of them in scratch.
  const float* in = nullptr;
  float* out = nullptr;
  Index in_slots = 1, out_slots = 1;

  Index out_height() const { return pool ? height / 2 : height; }
  Index out_width() const { return pool ? width / 2 : width; }
  Index out_size() const { return out_height() * out_width() * out_stride; }
  Index panels() const { return out_stride / kPanel; }
  Index tiles_across() const { return ceil_div(width, kTile); }
  Index tiles() const { return ceil_div(height, kTile) * tiles_across(); }
  const float* in_image(Index image) const { return in + image % in_slots * (height * width * in_stride); }
  float* out_image(Index image) const { return out + image % out_slots * out_size(); }
  // One line more than a plane holds, or the 36 planes of a tile would compete for the same few cache sets.
  Index v_plane(Index tiles) const { return tiles * in_stride + kPanel; }
  Index m_plane(Index tiles) const { return tiles * out_stride + kPanel; }
};

// ---------------------------------------------------------------------------------------------------- inner kernel

struct Product {
  const float* a;           // rows, `a_stride` floats apart; a row is `segments` runs of `depth` floats, `a_jump` apart
  Index a_stride, a_jump;
  int segments, depth;
  const float* b;           // panels of [segments * depth][16], one after the other
  float* c;                 // rows, `c_stride` apart
  Index c_stride;
  const float* prefetch;    // where to read ahead, `prefetch_step` floats with each step of depth
  Index prefetch_step;
  const float* bias;        // added, and ReLU applied, unless null
};

template <int rows, int panels>
void multiply_block(const Product& p) {
  constexpr int parts = panels * kParts;
  Vec sum[rows][parts] = {};
  const float* b = p.b;
  const float* prefetch = p.prefetch;
  const Index panel_size = Index(p.segments) * p.depth * kPanel;
  for (int segment = 0; segment < p.segments; ++segment) {
    const float* a = p.a + segment * p.a_jump;
    for (int k = 0; k < p.depth; ++k) {
      Vec filter[parts];
#pragma GCC unroll 16
      for (int j = 0; j < parts; ++j) filter[j] = load(b + j / kParts * panel_size + j % kParts * kLanes);
      __builtin_prefetch(prefetch);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const float value = a[r * p.a_stride + k];
#pragma GCC unroll 16
        for (int j = 0; j < parts; ++j) sum[r][j] += value * filter[j];
      }
      b += kPanel;
      prefetch += p.prefetch_step;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < parts; ++j) {
      Vec value = sum[r][j];
      if (p.bias != nullptr) value = relu(value + load(p.bias + j * kLanes));
      store(p.c + r * p.c_stride + j * kLanes, value);
    }
  }
}

template <int panels, std::size_t... index>
constexpr auto blocks_of(std::index_sequence<index...>) {
  return std::array<void (*)(const Product&), sizeof...(index)>{multiply_block<index + 1, panels>...};
}
constexpr auto kBlocks = blocks_of<kPanels>(std::make_index_sequence<kRows>());
constexpr auto kNarrowBlocks = blocks_of<1>(std::make_index_sequence<kRows>());

// Rows [rows, segments * depth] times panels [first, last) of b. `p` describes row 0, panel 0.
void multiply(Product p, Index rows, Index first, Index last) {
  const Index panel_size = Index(p.segments) * p.depth * kPanel;
  const Index blocks = ceil_div(rows, kRows);
  const Product origin = p;
  for (Index panel = first; panel < last;) {
    const bool wide = last - panel >= kPanels;
    const Index step = wide ? kPanels : 1;
    p.b = origin.b + panel * panel_size;
    p.bias = origin.bias == nullptr ? nullptr : origin.bias + panel * kPanel;
    p.prefetch = p.b + step * panel_size;
    p.prefetch_step = ceil_div(step * kPanel, blocks);
    for (Index block = 0; block < blocks; ++block) {
      const Index row = rows * block / blocks, count = rows * (block + 1) / blocks - row;
      p.a = origin.a + row * p.a_stride;
      p.c = origin.c + row * p.c_stride + panel * kPanel;
      (wide ? kBlocks : kNarrowBlocks)[count - 1](p);
      p.prefetch += p.prefetch_step * p.depth;
    }
    panel += step;
  }
}

// ---------------------------------------------------------------------------------------------------- the three steps

// The pixels under one tile, row by row; those outside the image are `zeros`.
using Patch = std::array<const float*, kPlanes>;

Patch patch_of(const Layer& layer, Index tile, const float* zeros) {
  const float* image = layer.in_image(tile / layer.tiles());
  const Index index = tile % layer.tiles();
  const Index top = index / layer.tiles_across() * kTile - 1, left = index % layer.tiles_across() * kTile - 1;
  Patch patch;
  for (Index i = 0; i < kPatch; ++i) {
    for (Index j = 0; j < kPatch; ++j) {
      const Index y = top + i, x = left + j;
      const bool inside = y >= 0 && y < layer.height && x >= 0 && x < layer.width;
      patch[i * kPatch + j] = inside ? image + (y * layer.width + x) * layer.in_stride : zeros;
    }
  }
  return patch;
}

inline std::array<Vec, 6> times_b(Vec d0, Vec d1, Vec d2, Vec d3, Vec d4, Vec d5) {
  const Vec even1 = d4 - 0.5f * d2, odd1 = kSqrt2 * d3 - kSqrtHalf * d1;
  const Vec even2 = d4 - 2.0f * d2, odd2 = kSqrtHalf * d3 - kSqrt2 * d1;
  return {d0 - 2.5f * d2 + d4, even1 + odd1, even1 - odd1, even2 + odd2, even2 - odd2, d1 - 2.5f * d3 + d5};
}

inline std::array<Vec, 4> times_a(Vec m0, Vec m1, Vec m2, Vec m3, Vec m4, Vec m5) {
  const Vec sum1 = m1 + m2, difference1 = m1 - m2, sum2 = m3 + m4, difference2 = m3 - m4;
  return {m0 + sum1 + sum2, kSqrt2 * difference1 + kSqrtHalf * difference2, 2.0f * sum1 + 0.5f * sum2,
          2.0f * kSqrt2 * difference1 + 0.5f * kSqrtHalf * difference2 + m5};
}

// V of tiles [first, last), the first of them at row `row` of planes of `plane` floats.
void transform_input(const Layer& layer, Index first, Index last, const float* zeros, float* v, Index row,
                     Index plane) {
  for (Index tile = first; tile < last; ++tile, ++row) {
    const Patch patch = patch_of(layer, tile, zeros);
    for (Index c = 0; c < layer.in_stride; c += kLanes) {
      Vec half[kPatch][kPatch];
#pragma GCC unroll 6
      for (int j = 0; j < kPatch; ++j) {
        const auto column = times_b(load(patch[j] + c), load(patch[6 + j] + c), load(patch[12 + j] + c),
                                    load(patch[18 + j] + c), load(patch[24 + j] + c), load(patch[30 + j] + c));
#pragma GCC unroll 6
        for (int i = 0; i < kPatch; ++i) half[i][j] = column[i];
      }
      float* to = v + row * layer.in_stride + c;
#pragma GCC unroll 6
      for (int i = 0; i < kPatch; ++i) {
        const auto line = times_b(half[i][0], half[i][1], half[i][2], half[i][3], half[i][4], half[i][5]);
#pragma GCC unroll 6
        for (int j = 0; j < kPatch; ++j) store(to + (i * kPatch + j) * plane, line[j]);
      }
    }
  }
}

// M of one plane, or of some of its panels, from V of that plane.
void multiply_plane(const Layer& layer, int plane, Index tiles, Index first_panel, Index last_panel, const float* v,
                    float* m) {
  Product p{};
  p.a = v + plane * layer.v_plane(tiles);
  p.a_stride = layer.in_stride;
  p.segments = 1;
  p.depth = static_cast<int>(layer.in_stride);
  p.b = layer.transformed + plane * layer.in_stride * layer.out_stride;
  p.c = m + plane * layer.m_plane(tiles);
  p.c_stride = layer.out_stride;
  multiply(p, tiles, first_panel, last_panel);
}

using Tile = Vec[kTile][kTile];

// Where a tile's outputs go: fewer at the lower and right edges of an image.
struct Target {
  float* to;
  Index down, right, pitch;
};

Target target_of(const Layer& layer, Index tile) {
  const Index index = tile % layer.tiles(), side = layer.pool ? kTile / 2 : kTile;
  const Index top = index / layer.tiles_across() * side, left = index % layer.tiles_across() * side;
  const Index pitch = layer.out_width() * layer.out_stride;
  return {layer.out_image(tile / layer.tiles()) + top * pitch + left * layer.out_stride,
          std::min(side, layer.out_height() - top), std::min(side, layer.out_width() - left), pitch};
}

// `kLanes` channels of a tile that has its bias, through ReLU and pooling.
inline void write_tile(const Layer& layer, const Target& target, Index channel, const Tile& y) {
  for (Index i = 0; i < target.down; ++i) {
    float* to = target.to + i * target.pitch + channel;
    for (Index j = 0; j < target.right; ++j, to += layer.out_stride) {
      if (layer.pool) {
        const Vec upper = maximum(y[2 * i][2 * j], y[2 * i][2 * j + 1]);
        const Vec lower = maximum(y[2 * i + 1][2 * j], y[2 * i + 1][2 * j + 1]);
        store(to, relu(maximum(upper, lower)));
      } else {
        store(to, relu(y[i][j]));
      }
    }
  }
}

// The tile by definition: slow, and right whatever the input holds.
void convolve_tile(const Layer& layer, Index tile, const float* zeros) {
  const Patch patch = patch_of(layer, tile, zeros);
  const Target target = target_of(layer, tile);
  for (Index channel = 0; channel < layer.out_stride; channel += kLanes) {
    const float* filters = layer.filters + channel / kPanel * (9 * layer.in_channels * kPanel) + channel % kPanel;
    Tile y;
    for (int i = 0; i < kTile; ++i) {
      for (int j = 0; j < kTile; ++j) {
        y[i][j] = load(layer.bias.data() + channel);
        for (int tap = 0; tap < 9; ++tap) {
          const float* pixel = patch[(i + tap / 3) * kPatch + j + tap % 3];
          const float* filter = filters + tap * layer.in_channels * kPanel;
          for (Index c = 0; c < layer.in_channels; ++c) y[i][j] += pixel[c] * load(filter + c * kPanel);
        }
      }
    }
    write_tile(layer, target, channel, y);
  }
}

// Outputs of tiles [first, last), the first of them at row `row` of M.
void transform_output(const Layer& layer, Index first, Index last, const float* zeros, const float* m, Index row,
                      Index plane) {
  for (Index tile = first; tile < last; ++tile, ++row) {
    const Target target = target_of(layer, tile);
    Vec defect{};  // stays zero as long as everything is finite
    for (Index channel = 0; channel < layer.out_stride; channel += kLanes) {
      const float* from = m + row * layer.out_stride + channel;
      Vec half[kTile][kPatch];
#pragma GCC unroll 6
      for (int j = 0; j < kPatch; ++j) {
        const auto column =
            times_a(load(from + j * plane), load(from + (6 + j) * plane), load(from + (12 + j) * plane),
                    load(from + (18 + j) * plane), load(from + (24 + j) * plane), load(from + (30 + j) * plane));
#pragma GCC unroll 4
        for (int i = 0; i < kTile; ++i) half[i][j] = column[i];
      }
      const Vec bias = load(layer.bias.data() + channel);
      Tile y;
      Vec total{};
#pragma GCC unroll 4
      for (int i = 0; i < kTile; ++i) {
        const auto line = times_a(half[i][0], half[i][1], half[i][2], half[i][3], half[i][4], half[i][5]);
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) {
          y[i][j] = line[j] + bias;
          total += y[i][j];
        }
      }
      defect += total * 0.0f;
      write_tile(layer, target, channel, y);
    }
    bool finite = true;
    for (int lane = 0; lane < kLanes; ++lane) finite &= defect[lane] == 0.0f;
    if (!finite) convolve_tile(layer, tile, zeros);
  }
}

// Rows [first, last) of a direct layer, counted through all images. A pixel's three taps of a filter row are 3 * in
// consecutive floats, so three such runs of a zero-padded copy make the row of a matrix product.
void convolve_rows(const Layer& layer, Index first, Index last, float* padded) {
  const Index run = layer.width * layer.in_stride, pitch = run + 2 * layer.in_stride;
  for (Index row = first; row < last; ++row) {
    const Index image = row / layer.height, y = row % layer.height;
    std::fill_n(padded, 3 * pitch, 0.0f);
    for (Index i = 0; i < 3; ++i) {
      const Index from = y + i - 1;
      if (from < 0 || from >= layer.height) continue;
      std::copy_n(layer.in_image(image) + from * run, run, padded + i * pitch + layer.in_stride);
    }
    Product p{};
    p.a = padded;
    p.a_stride = layer.in_stride;
    p.a_jump = pitch;
    p.segments = 3;
    p.depth = static_cast<int>(3 * layer.in_stride);
    p.b = layer.filters;
    p.c = layer.out_image(image) + y * layer.width * layer.out_stride;
    p.c_stride = layer.out_stride;
    p.bias = layer.bias.data();
    multiply(p, layer.width, 0, layer.panels());
  }
}

// ---------------------------------------------------------------------------------------------------- schedule

// One convolution as the caller describes it; `result`, where wanted, is [batch, height, width, padded channels].
struct Convolution {
  const float *filters, *transformed, *bias;
  Index in_channels, out_channels;
  bool pool;
  float* result;
};

struct Phase {
  enum Step { kDirect, kStrip, kTransformInput, kMultiply, kTransformOutput } step;
  const Layer* layer;
  Index first, count;  // tiles, or rows of a direct layer, counted through all images of the call
  Index items;         // equal shares of them; of all panels in all planes where they are multiplied
};

// The largest power of two up to `limit`, at least one.
Index power_of_two(Index limit) {
  Index power = 1;
  while (2 * power <= limit) power *= 2;
  return power;
}

// All that a call works on. Workers may outlive the call, so they own it together.
class Job {
 public:
  Job(const float* images, Index batch, Index height, Index width, const std::vector<Convolution>& convolutions,
      Index threads)
      : batch_(batch), threads_(threads) {
    add_layers(height, width, convolutions);
    // A group of images is what the shared layers take on together, a subgroup what the others do.
    group_ = std::min(batch, power_of_two(kSharedTiles / layers_.back().tiles()));
    subgroup_ = std::min(group_, power_of_two(threads * kSubgroupPixels / (height * width)));
    add_memory(images, convolutions);
    add_phases();
    progress_ = std::vector<Progress>(phases_.size());
  }

  // Works on the job; returns when all of it is done, which the caller can bring about alone. Once for each thread.
  void work() {
    float* scratch = worker_scratch_ + workers_.fetch_add(1) * worker_floats_;
    for (std::size_t i = 0; i < phases_.size(); ++i) {
      const Index items = phases_[i].items;
      for (Index index; (index = progress_[i].taken.fetch_add(1, std::memory_order_relaxed)) < items;) {
        do_item(phases_[i], index, scratch);
        progress_[i].done.fetch_add(1, std::memory_order_release);
      }
      while (progress_[i].done.load(std::memory_order_acquire) < items) std::this_thread::yield();
    }
  }

 private:
  struct Progress {
    alignas(kCacheLine) std::atomic<Index> taken{0};
    alignas(kCacheLine) std::atomic<Index> done{0};
  };

  void do_item(const Phase& phase, Index index, float* scratch) const {
    const Layer& layer = *phase.layer;
    const Index begin = phase.count * index / phase.items, end = phase.count * (index + 1) / phase.items;
    const Index first = phase.first + begin, last = phase.first + end;
    switch (phase.step) {
      case Phase::kDirect:
        convolve_rows(layer, first, last, scratch);
        break;
      case Phase::kStrip: {
        const Index tiles = last - first;
        float* m = scratch + kPlanes * layer.v_plane(tiles);
        transform_input(layer, first, last, zeros_, scratch, 0, layer.v_plane(tiles));
        for (int plane = 0; plane < kPlanes; ++plane)
          multiply_plane(layer, plane, tiles, 0, layer.panels(), scratch, m);
        transform_output(layer, first, last, zeros_, m, 0, layer.m_plane(tiles));
        break;
      }
      case Phase::kTransformInput:
        transform_input(layer, first, last, zeros_, v_, begin, layer.v_plane(phase.count));
        break;
      case Phase::kMultiply: {
        const Index shares = phase.items / kPlanes, share = index % shares, blocks = ceil_div(layer.panels(), kPanels);
        multiply_plane(layer, static_cast<int>(index / shares), phase.count, blocks * share / shares * kPanels,
                       std::min(layer.panels(), blocks * (share + 1) / shares * kPanels), v_, m_);
        break;
      }
      case Phase::kTransformOutput:
        transform_output(layer, first, last, zeros_, m_, begin, layer.m_plane(phase.count));
        break;
    }
  }

  void add_layers(Index height, Index width, const std::vector<Convolution>& convolutions) {
    for (const Convolution& convolution : convolutions) {
      const Layer* before = layers_.empty() ? nullptr : &layers_.back();
      Layer layer;
      layer.height = before == nullptr ? height : before->out_height();
      layer.width = before == nullptr ? width : before->out_width();
      layer.in_channels = convolution.in_channels;
      layer.in_stride = before == nullptr ? convolution.in_channels : before->out_stride;
      layer.out_stride = round_up(convolution.out_channels, kPanel);
      layer.pool = convolution.pool;
      const Index weights = layer.in_stride * layer.out_stride;
      const Index pixels = layer.tiles() * (layer.in_stride + layer.out_stride);
      layer.shared = before != nullptr && (before->shared || weights > pixels);
      layer.filters = convolution.filters;
      layer.transformed = convolution.transformed;
      layer.bias.assign(layer.out_stride, 0.0f);
      std::copy_n(convolution.bias, convolution.out_channels, layer.bias.begin());
      layers_.push_back(std::move(layer));
    }
  }

  // Layers write by turns to two buffers, of a subgroup or a group; what the shared ones start from collects in a
  // third.
  void add_memory(const float* images, const std::vector<Convolution>& convolutions) {
    std::array<Index, 3> activations{};
    std::vector<std::size_t> places(layers_.size());
    Index v = 0, m = 0, zeros = 0;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      Layer& layer = layers_[i];
      const bool boundary = !layer.shared && i + 1 < layers_.size() && layers_[i + 1].shared;
      places[i] = boundary ? 2 : i % 2;
      layer.out = convolutions[i].result;
      layer.out_slots = layer.out != nullptr ? batch_ : layer.shared || boundary ? group_ : subgroup_;
      Index& activation = activations[places[i]];
      if (layer.out == nullptr) activation = std::max(activation, layer.out_slots * layer.out_size());
      zeros = std::max(zeros, layer.in_stride);
      if (layer.shared) {
        const Index tiles = std::min(kSharedTiles, group_ * layer.tiles());
        v = std::max(v, kPlanes * layer.v_plane(tiles));
        m = std::max(m, kPlanes * layer.m_plane(tiles));
      } else {
        const Index strip = kPlanes * (layer.v_plane(kStripTiles) + layer.m_plane(kStripTiles));
        const Index rows = 3 * (layer.width + 2) * layer.in_stride;
        worker_floats_ = std::max(worker_floats_, layer.transformed != nullptr ? strip : rows);
      }
    }
    worker_floats_ = round_up(worker_floats_, kPanel);

    // In one piece: glibc's malloc comes to keep a piece below 32 MB, and one image at 224 x 224 needs less, but it
    // returns several together to the system at every call, to be faulted in again.
    std::array<Index, 7> sizes{v, m, zeros, threads_ * worker_floats_, activations[0], activations[1], activations[2]};
    Index total = 0;
    for (Index& size : sizes) total += size = round_up(size, kPanel);
    scratch_ = allocate(total);
    std::array<float*, 7> starts{scratch_.get()};
    for (std::size_t i = 1; i < starts.size(); ++i) starts[i] = starts[i - 1] + sizes[i - 1];
    v_ = starts[0], m_ = starts[1], zeros_ = starts[2], worker_scratch_ = starts[3];
    std::fill_n(starts[2], zeros, 0.0f);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      Layer& layer = layers_[i];
      if (layer.out == nullptr) layer.out = starts[4 + places[i]];
      layer.in = i == 0 ? images : layers_[i - 1].out;
      layer.in_slots = i == 0 ? batch_ : layers_[i - 1].out_slots;
    }
  }

  void add_phases() {
    for (Index start = 0; start < batch_; start += group_) {
      const Index stop = std::min(batch_, start + group_);
      for (Index first = start; first < stop; first += subgroup_)
        for (const Layer& layer : layers_)
          if (!layer.shared) add_separate(layer, first, std::min(subgroup_, stop - first));
      for (const Layer& layer : layers_)
        if (layer.shared) add_shared(layer, start, stop - start);
    }
  }

  void add_separate(const Layer& layer, Index image, Index images) {
    if (layer.transformed == nullptr) {
      const Index rows = images * layer.height;
      phases_.push_back({Phase::kDirect, &layer, image * layer.height, rows, ceil_div(rows, 4)});
    } else {
      const Index tiles = images * layer.tiles();
      const Index strips = std::min(tiles, round_up(ceil_div(tiles, kStripTiles), threads_));
      phases_.push_back({Phase::kStrip, &layer, image * layer.tiles(), tiles, strips});
    }
  }

  void add_shared(const Layer& layer, Index image, Index images) {
    const Index tiles = images * layer.tiles(), chunks = ceil_div(tiles, kSharedTiles);
    for (Index chunk = 0; chunk < chunks; ++chunk) {
      const Index begin = tiles * chunk / chunks, count = tiles * (chunk + 1) / chunks - begin;
      const Index first = image * layer.tiles() + begin, shares = std::min(count, 8 * threads_);
      const Index blocks = kPlanes * std::min(threads_, ceil_div(layer.panels(), kPanels));
      phases_.push_back({Phase::kTransformInput, &layer, first, count, shares});
      phases_.push_back({Phase::kMultiply, &layer, first, count, blocks});
      phases_.push_back({Phase::kTransformOutput, &layer, first, count, shares});
    }
  }

  const Index batch_, threads_;
  Index group_ = 1, subgroup_ = 1, worker_floats_ = 0;
  std::vector<Layer> layers_;
  std::vector<Phase> phases_;
  std::vector<Progress> progress_;
  std::atomic<Index> workers_{0};
  Buffer scratch_;
  float *v_ = nullptr, *m_ = nullptr, *worker_scratch_ = nullptr;
  const float* zeros_ = nullptr;
};

using Schedule = std::function<void(std::function<void()>)>;

// Runs `convolutions` on images [batch, height, width, in_channels] with up to `threads` threads: the calling one, and
// those that `schedule` lends.
void forward(const float* images, Index batch, Index height, Index width, const std::vector<Convolution>& convolutions,
             Index threads, const Schedule& schedule) {
  const auto job = std::make_shared<Job>(images, batch, height, width, convolutions, threads);
  for (Index helper = 1; helper < threads; ++helper) schedule([job] { job->work(); });
  job->work();
}

// ---------------------------------------------------------------------------------------------------- XLA's door

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;

// Arguments: images [batch, height, width, channels]; then for each convolution its filters, its transformed filters
// (all but the first) and its bias. Results: the blocks in `wanted`, in order, after pooling.
ffi::Error vgg_features(ffi::ThreadPool pool, Floats images, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                        ffi::Span<const int64_t> depths, ffi::Span<const int64_t> wanted, int64_t max_threads) {
  const auto mismatch = [](const char* what) { return ffi::Error::InvalidArgument(what); };
  if (images.dimensions().size() != 4) return mismatch("images are not [batch, height, width, channels]");
  const Index batch = images.dimensions()[0], height = images.dimensions()[1], width = images.dimensions()[2];
  if (depths.size() == 0 || depths[0] < 2) return mismatch("the first block has no second convolution, which pools");
  std::vector<Convolution> convolutions;
  std::size_t argument = 0, result = 0;
  for (std::size_t block = 0; block < depths.size(); ++block) {
    for (int64_t i = 0; i < depths[block]; ++i) {
      const bool first = convolutions.empty();
      const Index channels = first ? images.dimensions()[3] : convolutions.back().out_channels;
      const auto filters = arguments.get<Floats>(argument++);
      const auto transformed = arguments.get<Floats>(first ? 0 : argument++);
      const auto bias = arguments.get<Floats>(argument++);
      if (!filters.has_value() || !transformed.has_value() || !bias.has_value()) return mismatch("missing weights");
      const Index out_channels = bias->element_count(), panels = ceil_div(out_channels, kPanel);
      if (Index(filters->element_count()) != panels * 9 * channels * kPanel ||
          (!first &&
           Index(transformed->element_count()) != kPlanes * panels * round_up(channels, kPanel) * kPanel))
        return mismatch("filters don't fit the layer before them or their bias");
      convolutions.push_back({filters->typed_data(), first ? nullptr : transformed->typed_data(), bias->typed_data(),
                              channels, out_channels, i + 1 == depths[block], nullptr});
    }
    if (result < wanted.size() && wanted[result] == static_cast<int64_t>(block)) {
      auto output = results.get<Floats>(result++);
      if (!output.has_value()) return mismatch("missing result");
      convolutions.back().result = (*output)->typed_data();
      const Index scale = Index(1) << (block + 1), channels = round_up(convolutions.back().out_channels, kPanel);
      if (Index((*output)->element_count()) != batch * (height / scale) * (width / scale) * channels)
        return mismatch("a result has the wrong size");
    }
  }
  Index threads = std::max<Index>(1, pool.num_threads());
  if (max_threads > 0) threads = std::min<Index>(threads, max_threads);
  try {
    forward(images.typed_data(), batch, height, width, convolutions, threads,
            [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for the scratch of the convolutions");
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(VggFeatures, vgg_features,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const int64_t>>("depths")
                                  .Attr<ffi::Span<const int64_t>>("wanted")
                                  .Attr<int64_t>("max_threads"));
