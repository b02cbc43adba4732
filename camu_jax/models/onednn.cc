// Convolutions of oneDNN as one XLA custom call for the CPU.
//
// Arrays are dense float32: images [G..., N, H, W, I], kernel [G..., KH, KW, I, O], output [G..., N, OH, OW, O]. Of
// these three, which a convolution relates, the call takes two and makes the third: the output (the convolution), the
// images (what reaches them backwards) or the kernel (its gradient). The leading axes G number independent ones.
//
// A call is cut into parts, whose number follows from the shapes alone. oneDNN works on a part with one thread; the parts
// run side by side on XLA's own pool. Partial kernels are added in a fixed order, so that the result has the same bits
// on any number of cores.

#include <Python.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iterator>
#include <latch>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Array = ffi::Buffer<ffi::F32>;
using Integers = ffi::Span<const int64_t>;

enum Wanted : int64_t { kImages, kKernel, kOutput };

constexpr int64_t kPartFlops = 10'000'000;  // a part has at least so many: what surrounds it takes microseconds
constexpr int64_t kKernelParts = 16;        // of a kernel: as few as keep the cores busy, as its parts are added up
constexpr int64_t kPartPixels = 512;        // of the output, in a part of the images of a kernel: as above
constexpr int64_t kPartChannels = 64;       // of the output, in a part of a kernel
constexpr int64_t kAddedAtOnce = 1 << 14;   // numbers of a kernel
constexpr size_t kMostPlans = 512;

// --- One convolution on one thread ---

struct Convolution {
  int64_t wanted, n, h, w, i, kh, kw, o, oh, ow, stride_h, stride_w, top, left, bottom, right;
  int64_t all_o = o;  // of the arrays of which this is a part

  auto operator<=>(const Convolution&) const = default;

  int64_t image() const { return h * w * i; }
  int64_t kernel() const { return kh * kw * i * o; }
  int64_t output() const { return oh * ow * o; }  // of an image
};

const dnnl::engine& Cpu() {
  static const auto& engine = *new dnnl::engine(dnnl::engine::kind::cpu, 0);  // outlives XLA's threads
  return engine;
}

// oneDNN shares a primitive's work out among the threads that OpenMP offers when it is made, and again when it is run:
// idle ones would spin on XLA's cores.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  const int before_;
};

// Memory for a while. It is kept for those who come later: the first touch of fresh memory takes long.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_((std::max<size_t>(bytes, 1) + 63) / 64 * 64) {
    const std::lock_guard lock(Mutex());
    auto found = Kept().lower_bound(bytes_);
    if (found == Kept().end()) {
      if (!Kept().empty()) {  // all are too small: this one takes the place of the largest
        std::free(std::prev(found)->second);
        Kept().erase(std::prev(found));
      }
      data_ = std::aligned_alloc(64, bytes_);
      if (data_ == nullptr) throw std::bad_alloc();
    } else {
      std::tie(bytes_, data_) = *found;
      Kept().erase(found);
    }
  }
  ~Scratch() {
    const std::lock_guard lock(Mutex());
    Kept().emplace(bytes_, data_);
  }
  Scratch(const Scratch&) = delete;

  char* data() const { return static_cast<char*>(data_); }

 private:
  static std::mutex& Mutex() {
    static auto& mutex = *new std::mutex;
    return mutex;
  }
  static std::multimap<size_t, void*>& Kept() {
    static auto& kept = *new std::multimap<size_t, void*>;
    return kept;
  }

  size_t bytes_;
  void* data_;
};

// A primitive and its arrays. oneDNN chooses the layout of the kernel, `packed`.
struct Plan {
  memory::desc images, kernel, packed, output, all_output, scratch;
  dnnl::primitive convolution;
  dnnl::primitive pack;     // kernel to packed; the other way round where the kernel is wanted
  dnnl::primitive collect;  // the own channels of all_output

  explicit Plan(const Convolution& c) {
    const OneThread one_thread;
    using Type = memory::data_type;
    using Tag = memory::format_tag;
    constexpr auto kAuto = dnnl::algorithm::convolution_auto;
    const memory::dims strides{c.stride_h, c.stride_w}, low{c.top, c.left}, high{c.bottom, c.right};
    const memory::desc any({c.o, c.i, c.kh, c.kw}, Type::f32, Tag::any);
    images = memory::desc({c.n, c.i, c.h, c.w}, Type::f32, Tag::nhwc);
    kernel = memory::desc({c.o, c.i, c.kh, c.kw}, Type::f32,
                          memory::dims{1, c.all_o, c.kw * c.i * c.all_o, c.i * c.all_o});
    output = memory::desc({c.n, c.o, c.oh, c.ow}, Type::f32, Tag::nhwc);
    all_output = memory::desc({c.n, c.o, c.oh, c.ow}, Type::f32,
                              memory::dims{c.oh * c.ow * c.all_o, 1, c.ow * c.all_o, c.all_o});
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);

    const dnnl::convolution_forward::primitive_desc forward(Cpu(), dnnl::prop_kind::forward_training, kAuto, images, any,
                                                            output, strides, low, high, attributes);
    const auto take = [&](const auto& primitive, const memory::desc& layout, const memory::desc& needed) {
      convolution = primitive, packed = layout, scratch = needed;
    };
    if (c.wanted == kOutput) {
      take(dnnl::convolution_forward(forward), forward.weights_desc(), forward.scratchpad_desc());
    } else if (c.wanted == kImages) {
      const dnnl::convolution_backward_data::primitive_desc backward(Cpu(), kAuto, images, any, output, strides, low,
                                                                     high, forward, attributes);
      take(dnnl::convolution_backward_data(backward), backward.weights_desc(), backward.scratchpad_desc());
    } else {
      const dnnl::convolution_backward_weights::primitive_desc backward(Cpu(), kAuto, images, any, output, strides, low,
                                                                        high, forward, attributes);
      take(dnnl::convolution_backward_weights(backward), backward.diff_weights_desc(), backward.scratchpad_desc());
    }
    const bool unpacks = c.wanted == kKernel;
    pack = dnnl::reorder({Cpu(), unpacks ? packed : kernel, Cpu(), unpacks ? kernel : packed});
    collect = dnnl::reorder({Cpu(), all_output, Cpu(), output});
  }
};

std::shared_ptr<const Plan> PlanFor(const Convolution& c) {
  static auto& mutex = *new std::mutex;
  static auto& plans = *new std::map<Convolution, std::shared_ptr<const Plan>>;
  const std::lock_guard lock(mutex);
  auto found = plans.find(c);
  if (found == plans.end()) {
    if (plans.size() == kMostPlans) plans.clear();  // those in use live on
    found = plans.emplace(c, std::make_shared<const Plan>(c)).first;
  }
  return found->second;
}

memory In(const memory::desc& layout, void* data) { return memory(layout, Cpu(), data); }

void Execute(const dnnl::primitive& primitive, const std::unordered_map<int, memory>& arguments) {
  const OneThread one_thread;
  dnnl::stream stream(Cpu());
  primitive.execute(stream, arguments);
  stream.wait();
}

// --- Parts side by side ---

// Calls `part` with each number below `count`, in the threads of the pool and in this one. XLA runs the call itself on
// that pool, so nobody may wait for a part that nobody has begun: whoever is free takes the next one, the caller too.
void SideBySide(ffi::ThreadPool& pool, int64_t count, const std::function<void(int64_t)>& part) {
  struct Work {
    explicit Work(int64_t count) : left(count) {}
    std::atomic<int64_t> next = 0;
    std::latch left;
    std::mutex mutex;
    std::exception_ptr error;
  };
  auto work = std::make_shared<Work>(count);
  auto take = [work, count, &part] {  // `part` is used only while parts are left, that is while the caller waits
    for (int64_t i; (i = work->next++) < count; work->left.count_down()) {
      try {
        part(i);
      } catch (...) {
        const std::lock_guard lock(work->mutex);
        work->error = std::current_exception();
      }
    }
  };
  for (int64_t helpers = std::min(count - 1, pool.num_threads()); helpers > 0; --helpers) {
    auto copy = take;
    pool.Schedule(std::move(copy));
  }
  take();
  work->left.wait();
  if (work->error) std::rethrow_exception(work->error);
}

// --- A call ---

struct Data {
  float *images, *kernel, *output;
};

int64_t Parts(int64_t whole, int64_t size) { return (whole + size - 1) / size; }

// Images in a part: enough for the work that is worth one.
int64_t PartImages(const Convolution& c) {
  const int64_t flops = 2 * c.oh * c.ow * c.kernel();
  return std::clamp<int64_t>(Parts(kPartFlops, flops), 1, c.n);
}

// The output or the images of each of `groups` convolutions, part by part. A kernel is packed once for all of its parts.
void Map(ffi::ThreadPool& pool, const Convolution& c, int64_t groups, const Data& data) {
  const bool forward = c.wanted == kOutput;
  const int64_t size = PartImages(c), parts = Parts(c.n, size);
  Convolution whole = c, last = c;
  whole.n = size;
  last.n = c.n - (parts - 1) * size;
  const std::shared_ptr<const Plan> plans[] = {PlanFor(whole), PlanFor(last)};
  // oneDNN may want another layout for the last part.
  const int64_t layouts = plans[0]->packed == plans[1]->packed ? 1 : 2;
  const size_t bytes = std::max(plans[0]->packed.get_size(), plans[1]->packed.get_size());
  const Scratch packed(groups * layouts * bytes);
  SideBySide(pool, groups * layouts, [&](int64_t task) {
    const Plan& plan = *plans[task % layouts];
    Execute(plan.pack, {{DNNL_ARG_FROM, In(plan.kernel, data.kernel + task / layouts * c.kernel())},
                        {DNNL_ARG_TO, In(plan.packed, packed.data() + task * bytes)}});
  });
  SideBySide(pool, groups * parts, [&](int64_t task) {
    const int64_t group = task / parts, part = task % parts, row = group * c.n + part * size;
    const Plan& plan = *plans[part == parts - 1];
    const int64_t layout = group * layouts + (part == parts - 1 ? layouts - 1 : 0);
    const Scratch scratch(plan.scratch.get_size());
    Execute(plan.convolution,
            {{forward ? DNNL_ARG_SRC : DNNL_ARG_DIFF_SRC, In(plan.images, data.images + row * c.image())},
             {DNNL_ARG_WEIGHTS, In(plan.packed, packed.data() + layout * bytes)},
             {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, In(plan.output, data.output + row * c.output())},
             {DNNL_ARG_SCRATCHPAD, In(plan.scratch, scratch.data())}});
  });
}

// The kernel of each of `groups` convolutions. A part is of some output channels, and where these do not give parts
// enough, of some images; the kernels of these are added from the first to the last.
void Reduce(ffi::ThreadPool& pool, const Convolution& c, int64_t groups, const Data& data) {
  const int64_t slices = Parts(c.o, kPartChannels), numbers = c.kernel();
  const int64_t size = std::min(c.n, std::max({Parts(c.n * slices, kKernelParts), PartImages(c) / slices,
                                               Parts(kPartPixels, c.oh * c.ow)}));
  const int64_t parts = Parts(c.n, size);
  const Scratch partial(groups * (parts - 1) * numbers * sizeof(float));
  const auto kernel_of = [&](int64_t group, int64_t part) {
    if (part == 0) return data.kernel + group * numbers;
    return reinterpret_cast<float*>(partial.data()) + (group * (parts - 1) + part - 1) * numbers;
  };
  SideBySide(pool, groups * parts * slices, [&](int64_t task) {
    const int64_t slice = task % slices, part = task / slices % parts, group = task / slices / parts;
    const int64_t row = group * c.n + part * size, channel = slice * kPartChannels;
    Convolution own = c;
    own.n = std::min(size, c.n - part * size);
    own.o = std::min(kPartChannels, c.o - channel);
    const auto plan = PlanFor(own);
    const Scratch scratch(plan->scratch.get_size()), packed(plan->packed.get_size()), output(plan->output.get_size());
    memory collected = In(plan->output, data.output + row * c.output());
    if (slices > 1) {
      collected = In(plan->output, output.data());
      Execute(plan->collect, {{DNNL_ARG_FROM, In(plan->all_output, data.output + row * c.output() + channel)},
                              {DNNL_ARG_TO, collected}});
    }
    Execute(plan->convolution, {{DNNL_ARG_SRC, In(plan->images, data.images + row * c.image())},
                                {DNNL_ARG_DIFF_WEIGHTS, In(plan->packed, packed.data())},
                                {DNNL_ARG_DIFF_DST, collected},
                                {DNNL_ARG_SCRATCHPAD, In(plan->scratch, scratch.data())}});
    Execute(plan->pack, {{DNNL_ARG_FROM, In(plan->packed, packed.data())},
                         {DNNL_ARG_TO, In(plan->kernel, kernel_of(group, part) + channel)}});
  });
  if (parts == 1) return;
  const int64_t ranges = Parts(numbers, kAddedAtOnce);
  SideBySide(pool, groups * ranges, [&](int64_t task) {
    const int64_t begin = task % ranges * kAddedAtOnce, end = std::min(begin + kAddedAtOnce, numbers);
    float* total = kernel_of(task / ranges, 0);
    for (int64_t part = 1; part < parts; ++part) {
      const float* added = kernel_of(task / ranges, part);
      for (int64_t i = begin; i < end; ++i) total[i] += added[i];
    }
  });
}

std::string Shape(const Array& array) {
  std::string text = "f32[";
  for (const int64_t size : array.dimensions()) text.append(std::to_string(size)).append(",");
  if (text.back() == ',') text.pop_back();
  return text.append("]");
}

ffi::Error Convolve(ffi::ThreadPool pool, int64_t wanted, Integers strides, Integers padding, Array first, Array second,
                    ffi::Result<Array> result) {
  if (wanted < kImages || wanted > kOutput) {
    return ffi::Error::InvalidArgument("wanted is " + std::to_string(wanted) + "; allowed: 0, 1, 2");
  }
  const Array& images = wanted == kImages ? *result : first;
  const Array& kernel = wanted == kKernel ? *result : wanted == kImages ? first : second;
  const Array& output = wanted == kOutput ? *result : second;
  const auto error = [&](ffi::ErrorCode code, const std::string& reason) {
    return ffi::Error(code, "convolution of images " + Shape(images) + " with a kernel " + Shape(kernel) + " to " +
                                Shape(output) + ": " + reason);
  };
  const auto x = images.dimensions(), k = kernel.dimensions(), y = output.dimensions();
  const size_t lead = x.size() - 4;
  bool fits = x.size() >= 4 && k.size() == x.size() && y.size() == x.size() && strides.size() == 2 && padding.size() == 4;
  int64_t groups = 1;
  for (size_t axis = 0; fits && axis < lead; groups *= x[axis++]) fits = k[axis] == x[axis] && y[axis] == x[axis];
  if (!fits) return error(ffi::ErrorCode::kInvalidArgument, "the axes do not fit");
  const Convolution c{wanted,      x[lead],     x[lead + 1], x[lead + 2], x[lead + 3], k[lead],    k[lead + 1], k[lead + 3],
                      y[lead + 1], y[lead + 2], strides[0],  strides[1],  padding[0],  padding[2], padding[1],  padding[3]};
  if (k[lead + 2] != c.i || y[lead] != c.n || y[lead + 3] != c.o) {
    return error(ffi::ErrorCode::kInvalidArgument, "the sizes do not fit");
  }
  if (std::min({groups, c.n, c.h, c.w, c.i, c.kh, c.kw, c.o, c.oh, c.ow}) == 0) {  // a sum of nothing
    std::fill_n(result->typed_data(), result->element_count(), 0.0f);
    return ffi::Error::Success();
  }
  try {
    const Data data{images.typed_data(), kernel.typed_data(), output.typed_data()};
    (wanted == kKernel ? Reduce : Map)(pool, c, groups, data);
  } catch (const std::exception& caught) {
    return error(ffi::ErrorCode::kInternal, std::string("oneDNN: ") + caught.what());
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kConvolve, Convolve,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Attr<int64_t>("wanted")
                           .Attr<Integers>("strides")
                           .Attr<Integers>("padding")
                           .Arg<Array>()
                           .Arg<Array>()
                           .Ret<Array>());

PyModuleDef module_definition = {PyModuleDef_HEAD_INIT, "_onednn", "oneDNN's convolutions, for `jax.ffi`.", -1};

}  // namespace

PyMODINIT_FUNC PyInit__onednn() {
  PyObject* module = PyModule_Create(&module_definition);
  PyObject* capsule = PyCapsule_New(reinterpret_cast<void*>(+kConvolve), nullptr, nullptr);
  if (module == nullptr || PyModule_AddObject(module, "convolve", capsule) < 0) return nullptr;
  return module;
}
