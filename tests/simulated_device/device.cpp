// An accelerator that delivers late, for tests on a machine that has none.
//
// Its memory is the host's and its kernels are the CPU's, run at once. What the host can see of a
// device that is behind is simulated: copies from and to pinned memory are only queued, on the
// current stream, where a test can hold them back; until they are done the host's memory holds a
// pattern. A copy takes what is in the device's memory when it is queued, as the order of a stream
// has it. Each wait for the device is counted; where copies are held back, it fails.

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

namespace {

using at::Tensor;
using Lock = std::unique_lock<std::mutex>;
using Moment = std::shared_ptr<bool>;  // whether it has passed

constexpr auto kKind = c10::DeviceType::PrivateUse1;
constexpr int kDevices = 2;
constexpr int kStreams = 2;  // of each device
constexpr int kPattern = 0xA5;

// -- streams, with a thread for each

struct Task {
  c10::Storage host;  // lives as long as the copy is under way
  char* place = nullptr;  // in it; null where this is no copy
  Tensor bytes;  // to be put there, or, on the way to the device, what must still be there
  bool to_device = false;
  Moment passes;
  Moment awaits;
};

using Stream = std::deque<Task>;

// Never destroyed: threads that nobody joins use these until the process has ended.
auto& mutex = *new std::mutex;
auto& changed = *new std::condition_variable;
auto& streams = *new std::array<std::array<Stream, kStreams>, kDevices>;
auto& pinned = *new std::map<const char*, size_t>;

bool is_held = false;
bool is_careless = false;
std::thread::id holder;
int64_t waits = 0;
int64_t waiting = 0;  // threads, for an event
int64_t copies = 0;  // queued up to now
int64_t overwritten = 0;
thread_local bool in_kernel = false;
thread_local c10::DeviceIndex current_device = 0;
thread_local std::array<c10::StreamId, kDevices> current_stream{};

Stream& stream_of(c10::Stream stream) {
  return streams.at(stream.device_index()).at(stream.id());
}

int64_t count(bool (*counts)(const Task&)) {
  int64_t sum = 0;
  for (auto& device : streams)
    for (auto& stream : device)
      sum += std::count_if(stream.begin(), stream.end(), counts);
  return sum;
}

bool is_copy(const Task& task) { return task.place != nullptr; }

bool is_idle() { return count([](const Task&) { return true; }) == 0; }

bool may_run(const Task& task) {
  return !(is_copy(task) && is_held) && (!task.awaits || *task.awaits);
}

void run(const Task& task) {
  auto bytes = task.bytes.defined() ? task.bytes.const_data_ptr() : nullptr;
  if (is_copy(task) && task.to_device)
    overwritten += std::memcmp(task.place, bytes, task.bytes.nbytes()) != 0;
  else if (is_copy(task))
    std::memcpy(task.place, bytes, task.bytes.nbytes());
  if (task.passes)
    *task.passes = true;
}

void work(Stream& stream) {
  for (;;) {
    Task done;  // what it holds is let go without the lock
    Lock lock(mutex);
    changed.wait(lock, [&] { return !stream.empty() && may_run(stream.front()); });
    run(stream.front());
    done = std::move(stream.front());
    stream.pop_front();
    changed.notify_all();
  }
}

void queue(c10::Stream on, Task task) {
  Lock lock(mutex);
  auto& stream = stream_of(on);
  copies += is_copy(task);
  if (stream.empty() && !is_copy(task) && may_run(task))
    return run(task);  // there is nothing before it
  stream.push_back(std::move(task));
  changed.notify_all();
}

// Stands for all waits for the device: for all that is queued, whatever of it is asked for.
void wait_for_device(const std::string& why) {
  Lock lock(mutex);
  ++waits;
  TORCH_CHECK(!is_held, "the host would wait for the device: ", why, " synchronizes");
  changed.wait(lock, is_idle);
}

// -- memory

void release_pinned(void* place) {
  Lock lock(mutex);
  pinned.erase(static_cast<char*>(place));
  std::free(place);
}

bool is_pinned(const void* place) {
  Lock lock(mutex);
  auto after = pinned.upper_bound(static_cast<const char*>(place));
  if (after == pinned.begin())
    return false;
  auto [start, size] = *std::prev(after);
  return place < start + size;
}

struct DeviceMemory final : at::Allocator {
  at::DataPtr allocate(size_t size) override {
    void* place = std::malloc(size + 1);
    return {place, place, &std::free, c10::Device(kKind, current_device)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
};

struct PinnedMemory final : at::Allocator {
  at::DataPtr allocate(size_t size) override {
    void* place = std::malloc(size + 1);
    Lock lock(mutex);
    pinned[static_cast<char*>(place)] = size + 1;
    return {place, place, &release_pinned, c10::Device(c10::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release_pinned; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
};

auto& device_memory = *new DeviceMemory;
auto& pinned_memory = *new PinnedMemory;

// -- what torch asks of a kind of device

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isPinnedPtr(const void* place) const override { return is_pinned(place); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  using Device = c10::Device;

  c10::DeviceType type() const override { return kKind; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  Device getDevice() const override { return {kKind, current_device}; }
  void setDevice(Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(Device device) const noexcept override {
    current_device = whole(device).index();
  }
  Device exchangeDevice(Device device) const override {
    auto before = getDevice();
    setDevice(device);
    return before;
  }

  Device whole(Device device) const { return device.has_index() ? device : getDevice(); }
  c10::Stream numbered(Device device, c10::StreamId id) const {
    return c10::Stream(c10::Stream::UNSAFE, device, id);
  }
  c10::Stream getStream(Device device) const override {
    device = whole(device);
    return numbered(device, current_stream.at(device.index()));
  }
  c10::Stream getDefaultStream(Device device) const override { return numbered(whole(device), 0); }
  c10::Stream getNewStream(Device device, int) const override { return numbered(whole(device), 1); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto before = getStream(stream.device());
    current_stream.at(stream.device_index()) = stream.id();
    return before;
  }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex, c10::EventFlag)
      const override {
    if (!*event)
      *event = new Moment;
    Task task;
    task.passes = *static_cast<Moment*>(*event) = std::make_shared<bool>(false);
    queue(stream, std::move(task));
  }
  void block(void* event, const c10::Stream& stream) const override {
    Task task;
    task.awaits = *static_cast<Moment*>(event);
    queue(stream, std::move(task));
  }
  bool queryEvent(void* event) const override {
    Lock lock(mutex);
    return !event || **static_cast<Moment*>(event);
  }
  void synchronizeEvent(void* event) const override {
    auto moment = *static_cast<Moment*>(event);
    Lock lock(mutex);
    bool is_for_ever = !*moment && is_held && holder == std::this_thread::get_id();
    TORCH_CHECK(!is_for_ever, "who holds copies back waits for them: an event synchronizes");
    ++waiting;
    changed.notify_all();
    changed.wait(lock, [&] { return *moment; });
    --waiting;
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<Moment*>(event);
  }
  void synchronizeStream(const c10::Stream&) const override { wait_for_device("a stream"); }
  void synchronizeDevice(c10::DeviceIndex) const override { wait_for_device("a device"); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// -- copies

// The same memory, as a tensor of the CPU.
Tensor seen_by_host(const Tensor& tensor) {
  if (tensor.is_cpu())
    return tensor;
  auto options = tensor.options().device(c10::kCPU);
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), options);
}

// Others go by way of memory that is not pinned, as those of CUDA do.
bool is_plain(const Tensor& host, const Tensor& on_device) {
  bool is_alike = host.strides() == on_device.strides() && host.is_non_overlapping_and_dense();
  return host.dtype() == on_device.dtype() && (host.is_contiguous() || is_alike);
}

void copy_late(const Tensor& from, const Tensor& to) {
  Task task;
  task.to_device = from.is_cpu();
  auto& host = task.to_device ? from : to;
  task.host = host.storage();
  task.place = static_cast<char*>(host.data_ptr());
  task.bytes = at::empty_strided(host.sizes(), host.strides(), host.options().pinned_memory(false));
  task.bytes.copy_(seen_by_host(from));
  if (task.to_device)
    seen_by_host(to).copy_(task.bytes);
  else
    std::memset(task.place, kPattern, host.nbytes());
  queue(Guard().getStream((task.to_device ? to : from).device()), std::move(task));
}

Tensor copy_from(const Tensor& source, const Tensor& to, bool non_blocking) {
  Tensor from = source.expand(to.sizes());
  auto& host = from.is_cpu() ? from : to;
  bool crosses = !in_kernel && from.is_cpu() != to.is_cpu() && to.numel();
  bool is_reachable = crosses && (is_careless || is_pinned(host.const_data_ptr()));
  if (is_reachable && non_blocking && is_plain(host, from.is_cpu() ? to : from)) {
    copy_late(from, to);
    return to;
  }
  if (crosses)
    wait_for_device(from.is_cpu() ? "a copy to the device" : "a copy to the host");
  seen_by_host(to).copy_(seen_by_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// -- other operators

const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &device_memory, kKeys, at::dtype_or_default(type), format);
}

Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> type,
    std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  c10::OptionalDeviceGuard guard(device);
  auto known = at::dtype_or_default(type);
  return at::detail::empty_strided_generic(size, stride, &device_memory, kKeys, known);
}

// The shape of what these return, or its value, is known to the device alone.
const std::set<std::string> kReading = {
    "aten::_local_scalar_dense", "aten::_unique2", "aten::bincount", "aten::equal",
    "aten::masked_select", "aten::nonzero", "aten::repeat_interleave",
    "aten::unique_consecutive", "aten::unique_dim"};
const std::set<std::string> kIndexing = {
    "aten::index", "aten::index_put_", "aten::_index_put_impl_"};

bool is_mask(const c10::IValue& value) {
  auto tensor = value.isTensor() ? value.toTensor() : Tensor();
  return tensor.defined() && tensor.scalar_type() == at::kBool;
}

bool has_mask(const torch::jit::Stack& stack) {
  return std::any_of(stack.begin(), stack.end(), [](const c10::IValue& value) {
    if (!value.isList())
      return false;
    auto parts = value.toListRef();
    return std::any_of(parts.begin(), parts.end(), is_mask);
  });
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  auto& name = op.schema().name();
  if (!in_kernel && (kReading.count(name) || (kIndexing.count(name) && has_mask(*stack))))
    wait_for_device(name);
  struct Within {  // where copies are of the simulation's own making
    bool before = std::exchange(in_kernel, true);
    ~Within() { in_kernel = before; }
  } within;
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("resize_", &at::native::resize_);
  m.impl("set_", &at::native::set_cpu_);
  m.impl("set_.source_Storage", static_cast<Tensor& (*)(Tensor&, at::Storage)>(&at::native::set_));
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

// -- what a test says and asks

void hold() {
  Lock lock(mutex);
  is_held = true;
  holder = std::this_thread::get_id();
}

void let_go() {
  Lock lock(mutex);
  is_held = false;
  changed.notify_all();
}

void finish() {
  let_go();
  Lock lock(mutex);
  changed.wait(lock, is_idle);
}

bool is_waited_for(double patience_s) {
  Lock lock(mutex);
  auto patience = std::chrono::duration<double>(patience_s);
  return changed.wait_for(lock, patience, [] { return waiting > 0; });
}

int64_t under_way() {
  Lock lock(mutex);
  return count(is_copy);
}

TORCH_LIBRARY(simulated, m) {
  m.def("hold() -> ()", &hold);
  m.def("let_go() -> ()", &let_go);
  m.def("finish() -> ()", &finish);
  m.def("is_waited_for(float patience_s) -> bool", &is_waited_for);
  m.def("under_way() -> int", &under_way);
  m.def("copies() -> int", [] { return copies; });
  m.def("waits() -> int", [] { return waits; });
  m.def("overwritten() -> int", [] { return overwritten; });
  m.def("be_careless(bool careless) -> ()", [](bool careless) { is_careless = careless; });
}

const bool is_started = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  c10::SetAllocator(kKind, &device_memory);
  for (auto& device : streams)
    for (auto& stream : device)
      std::thread(work, std::ref(stream)).detach();
  return true;
}();

}  // namespace
