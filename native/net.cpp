#include "net.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <limits>
#include <map>
#include <new>

#include "cpu.hpp"
#include "net_int8.hpp"
#include "sanitized.hpp"

namespace raceline::net {
namespace {

constexpr std::int64_t line_bytes = 64;
constexpr std::int64_t cached_weight_bytes = 16 << 20;  // more than these are taken to leave the last cache

double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds that this thread computed: what else runs on its core does not choose. Where several threads share the
// work, the time that passes.
double spent_s(int threads) {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    timespec now;
    if (threads == 1 && clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0)
        return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
#endif
    return now_s();
}

// The fastest methods by `key_of`: nets of other batch sizes share layers.
std::map<std::string, Method>& known() {
    static std::map<std::string, Method> all;
    return all;
}
std::mutex known_mutex;
constexpr std::size_t most_known = 8192;  // a server of many models and sizes

std::string key_of(const ConvSpec& s, const char* kernels, int threads, bool winograd, bool cold) {
    std::string key = kernels;
    const Epilogue& e = s.epilogue;
    for (std::int64_t number : {std::int64_t(threads),
                                std::int64_t(winograd),
                                std::int64_t(cold),
                                s.x.n,
                                s.x.c,
                                s.x.h,
                                s.x.w,
                                s.y.c,
                                s.y.h,
                                s.y.w,
                                s.kernel_h,
                                s.kernel_w,
                                s.stride_h,
                                s.stride_w,
                                s.dilation_h,
                                s.dilation_w,
                                s.pad_top,
                                s.pad_left,
                                s.groups,
                                std::int64_t(s.x.plain()),
                                std::int64_t(s.x.is_bytes),
                                std::int64_t(s.y.is_bytes),
                                std::int64_t(e.residual.is_bytes),
                                std::int64_t(e.first.kind),
                                std::int64_t(e.second.kind),
                                std::int64_t(e.has_residual)})
        key += " " + std::to_string(number);
    return key;
}

// Make the next reading of the weights come from memory.
void evict(const Memory& memory) {
#if defined(__x86_64__)
    for (std::int64_t i = 0; i < memory.size_bytes; i += line_bytes)
        __builtin_ia32_clflush(static_cast<const char*>(memory.at) + i);
    __builtin_ia32_mfence();
#else
    (void)memory;
#endif
}

// Without measuring: F(4 x 4) where the picture has some tiles, else the largest tile.
const Method& by_rule(const ConvSpec& s, const std::vector<Method>& methods) {
    for (const Method& method : methods)
        if (method.kind != Method::winograd || (method.side == 4 && s.y.h >= 8 && s.y.w >= 8)) return method;
    return methods.front();
}

// A signal that came as a column, as a row: tiles go along rows. Its numbers lie in memory the same way.
ConvSpec on_its_side(ConvSpec s) {
    if (s.x.w != 1 || s.y.w != 1 || s.kernel_w != 1 || s.pad_left != 0 || s.y.h == 1) return s;
    for (Value* value : {&s.x, &s.y, &s.epilogue.residual}) std::swap(value->h, value->w);
    std::swap(s.kernel_h, s.kernel_w);
    std::swap(s.stride_h, s.stride_w);
    std::swap(s.dilation_h, s.dilation_w);
    std::swap(s.pad_top, s.pad_left);
    return s;
}

std::int64_t checked_product(std::initializer_list<std::int64_t> factors) {
    std::int64_t product = 1;
    for (std::int64_t factor : factors)
        if (__builtin_mul_overflow(product, factor, &product)) throw BadNet("a value has too many numbers");
    return product;
}

// Of a step's work space all but what it asked for.
void forbid_more(const Floats& scratch, std::int64_t count) {
    allow(scratch.data(), std::size_t(count) * sizeof(float));
    forbid(scratch.data() + count, std::size_t(scratch.size() - count) * sizeof(float));
}

}  // namespace

void Floats::Free::operator()(float* at) const { std::free(at); }

Floats::Floats(std::int64_t count) : size_(count) {
    if (count <= 0) return;
    if (count > std::numeric_limits<std::int64_t>::max() / 8) throw std::bad_alloc();
    const std::size_t bytes = (std::size_t(count) * sizeof(float) + line_bytes - 1) / line_bytes * line_bytes;
    data_.reset(static_cast<float*>(std::aligned_alloc(line_bytes, bytes)));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes);
    forbid(data_.get() + count, bytes - std::size_t(count) * sizeof(float));
}

const Kernels* kernels_named(const char* name) {
    const std::string wanted = name;
#if defined(__x86_64__)
    static const bool avx2 = has_instruction_set("avx2") && has_instruction_set("fma");
    static const bool avx512 = avx2 && has_instruction_set("avx512f");
    if (wanted == "avx512") return avx512 ? &avx512_kernels : nullptr;
    if (wanted == "avx2") return avx2 ? &avx2_kernels : nullptr;
#endif
    return wanted == "plain" ? &plain_kernels : nullptr;
}

const Kernels& best_kernels() {
    for (const char* name : {"avx512", "avx2"})
        if (const Kernels* found = kernels_named(name)) return *found;
    return plain_kernels;
}

std::map<std::string, Method> known_methods() {
    std::lock_guard lock(known_mutex);
    return known();
}

void learn_methods(const std::map<std::string, Method>& found) {
    std::lock_guard lock(known_mutex);
    for (const auto& [key, method] : found)
        if (known().size() < most_known) known().emplace(key, method);
}

Net::Net(int threads, int streams, const std::string& kernels, std::int64_t arena_floats)
    : threads_(threads), kernels_(kernels.empty() ? &best_kernels() : kernels_named(kernels.c_str())),
      arena_floats_(arena_floats) {
    constexpr int most = 1024;
    if (threads < 1 || threads > most || streams < 1 || streams > most)
        throw BadNet("threads or streams are off");
    if (!kernels_) throw BadNet("this CPU has no kernels named " + kernels);
    if (arena_floats < 0) throw BadNet("the arena's size is off");
    for (int i = 0; i < streams; ++i) {
        auto context = std::make_unique<Context>();
        context->pool = std::make_unique<Pool>(threads);
        context->arena = Floats(arena_floats);
        free_.push_back(context.get());
        contexts_.push_back(std::move(context));
    }
}

int Net::add_value(Value v) {
    if (v.is_bytes) check_bytes(v.bytes);
    if (v.is_bytes && v.plain()) throw BadNet("inputs and outputs are of floats");
    for (std::int64_t size : {v.n, v.c, v.h, v.w})
        if (size < 1 || size > std::numeric_limits<std::int32_t>::max()) throw BadNet("a value has no size");
    if (v.plain()) {
        v.image_stride = checked_product({v.c, v.h, v.w});
        checked_product({v.image_stride, v.n, std::int64_t(sizeof(float))});
        auto& ends = v.place == Place::input ? inputs_ : outputs_;
        v.offset = std::int64_t(ends.size());
        ends.push_back(v);
    } else {
        const std::int64_t image = v.is_bytes ? (checked_product({v.c, v.h, v.w}) + 3) / 4
                                              : checked_product({v.blocks(), block, v.h, v.w});
        std::int64_t end = checked_product({v.n - 1, v.image_stride});
        const bool overflows =
            __builtin_add_overflow(end, image, &end) || __builtin_add_overflow(end, v.offset, &end);
        if (v.image_stride < image || v.offset < 0 || overflows || end > arena_floats_)
            throw BadNet("a value lies outside the arena");
    }
    values_.push_back(v);
    return int(values_.size()) - 1;
}

const Value& Net::value(int number) const {
    const Value& found = any_value(number);
    if (found.is_bytes) throw BadNet("a value of bytes stands where floats are needed");
    return found;
}

const Value& Net::any_value(int number) const {
    if (number < 0 || std::size_t(number) >= values_.size()) throw BadNet("there is no such value");
    return values_[std::size_t(number)];
}

void Net::add(std::unique_ptr<Step> step) {
    if (ready_) throw BadNet("the net is complete");
    steps_.push_back(std::move(step));
}

void Net::add_convolution(const ConvSpec& given, const float* weights, const float* bias) {
    const ConvSpec spec = on_its_side(given);
    check_convolution(spec);
    const std::int64_t count =
        checked_product({spec.y.c, spec.x.c / spec.groups, spec.kernel_h, spec.kernel_w});
    Pending pending{steps_.size(), spec, {weights, weights + count}, {}, {}, {}};
    if (bias) pending.bias.assign(bias, bias + spec.y.c);
    add_pending(std::move(pending));
}

void Net::add_int8_convolution(const ConvSpec& given, const std::int8_t* weights, const float* scale,
                               const float* bias) {
    const ConvSpec spec = on_its_side(given);
    check_int8_convolution(spec);
    const std::int64_t count =
        checked_product({spec.y.c, spec.x.c / spec.groups, spec.kernel_h, spec.kernel_w});
    Pending pending{steps_.size(), spec, {}, {}, {weights, weights + count}, {scale, scale + spec.y.c}};
    if (bias) pending.bias.assign(bias, bias + spec.y.c);
    add_pending(std::move(pending));
}

void Net::add_pending(Pending pending) {
    add(nullptr);
    pending_.push_back(std::move(pending));
}

std::vector<Method> Net::ways_of(const Pending& p, bool winograd) const {
    if (p.whole.empty()) return methods_for(p.spec, *kernels_, winograd);
    return int8_methods_for(p.spec, *kernels_, winograd);
}

std::unique_ptr<Step> Net::make(const Pending& p, const Method& method) const {
    const float* bias = p.bias.empty() ? nullptr : p.bias.data();
    if (p.whole.empty()) return make_convolution(p.spec, method, *kernels_, p.weights.data(), bias);
    return make_int8_convolution(p.spec, method, *kernels_, p.whole.data(), p.scale.data(), bias, arena_floats_);
}

void Net::resize_arenas(std::int64_t more_floats) {
    for (auto& context : contexts_)
        if (context->arena.size() != arena_floats_ + more_floats)
            context->arena = Floats(), context->arena = Floats(arena_floats_ + more_floats);
}

// Of an arena all but the numbers of values.
void Net::forbid_gaps(float* arena) const {
    forbid(arena, std::size_t(arena_floats_) * sizeof(float));
    for (const Value& v : values_)
        for (std::int64_t n = 0; n < v.n && !v.plain(); ++n)
            allow(arena + v.offset + n * v.image_stride,
                  std::size_t(v.is_bytes ? v.c * v.h * v.w : v.blocks() * v.plane() * std::int64_t(sizeof(float))));
}

void Net::prepare(double budget_s, bool winograd, int choice) {
    if (ready_) throw BadNet("the net is complete");
    const double until = now_s() + budget_s;
    std::int64_t weights = 0, most_aside = 0, aside = 0;
    for (const Pending& p : pending_) {
        weights += p.weight_bytes();
        if (!p.whole.empty() && winograd) most_aside = std::max(most_aside, floats_aside(p.spec));
    }
    cold_ = weights > cached_weight_bytes;
    resize_arenas(most_aside);
    for (Pending& p : pending_) {
        Method method;
        if (choice < 0) {
            method = choose(p, winograd, until);
        } else {
            const std::vector<Method> methods = ways_of(p, winograd);
            method = methods[std::size_t(choice) % methods.size()];
        }
        if (!p.whole.empty() && method.kind == Method::winograd) aside = std::max(aside, floats_aside(p.spec));
        steps_[p.place] = make(p, method);
        p.weights = {}, p.whole = {};
    }
    pending_.clear();
    resize_arenas(aside);
    std::int64_t scratch = 0;
    for (const auto& step : steps_) scratch = std::max(scratch, step->scratch_floats(threads_));
    for (auto& context : contexts_) context->scratch = Floats(scratch);
    if (sanitized)
        for (auto& context : contexts_) forbid_gaps(context->arena.data());
    ready_ = true;
}

Method Net::choose(const Pending& p, bool winograd, double until_s) {
    const std::vector<Method> methods = ways_of(p, winograd);
    if (methods.size() == 1) return methods.front();
    const std::string key = key_of(p.spec, kernels_->name, threads_, winograd, cold_);
    {
        std::lock_guard lock(known_mutex);
        if (auto found = known().find(key); found != known().end())
            if (std::find(methods.begin(), methods.end(), found->second) != methods.end())
                return found->second;
    }
    if (now_s() >= until_s) return by_rule(p.spec, methods);
    const auto [best, is_final] = measure(p, methods, until_s);
    if (!is_final) return best;
    std::lock_guard lock(known_mutex);
    if (known().size() >= most_known) known().clear();
    known()[key] = best;
    return best;
}

std::pair<Method, bool> Net::measure(const Pending& p, const std::vector<Method>& methods, double until_s) {
    Context& context = *contexts_.front();
    // A plain input stands in for the caller's, which is not there yet.
    const Floats input(p.spec.x.plain() ? p.spec.x.n * p.spec.x.image_stride : 0);
    const std::vector<const float*> inputs(inputs_.size(), input.data());
    const Pool::Busy busy(*context.pool);
    double least = std::numeric_limits<double>::infinity();
    Method best = by_rule(p.spec, methods);
    for (const Method& method : methods) {
        const auto step = make(p, method);
        if (const std::int64_t floats = step->scratch_floats(threads_); floats > context.scratch.size())
            context.scratch = Floats(floats);
        const Call call = call_on(context, inputs.data(), nullptr);
        double time = std::numeric_limits<double>::infinity();
        for (int i = 0; i < 5; ++i) {
            if (cold_) evict(step->weights());
            const double start = spent_s(threads_);
            step->run(call);
            if (i) time = std::min(time, spent_s(threads_) - start);  // the first brings code and activations near
            if (i == 1 && time > 1.5 * least) break;
        }
        if (time < least) least = time, best = method;
        if (now_s() >= until_s) return {best, &method == &methods.back()};
    }
    return {best, true};
}

Call Net::call_on(const Context& context, const float* const* inputs, float* const* outputs) const {
    return {*context.pool, context.arena.data(), context.scratch.data(), inputs, outputs};
}

// A context for as long as this lives; waits where all are in use.
struct Net::Turn {
    explicit Turn(Net& net) : net(net) {
        std::unique_lock lock(net.mutex_);
        net.returned_.wait(lock, [&] { return !net.free_.empty(); });
        context = net.free_.back();
        net.free_.pop_back();
    }
    ~Turn() {
        {
            std::lock_guard lock(net.mutex_);
            net.free_.push_back(context);
        }
        net.returned_.notify_one();
    }
    Net& net;
    Context* context;
};

void Net::run(const float* const* inputs, float* const* outputs) {
    if (!ready_) throw BadNet("the net is not complete");
    const Turn turn(*this);
    const Pool::Busy busy(*turn.context->pool);
    const Call call = call_on(*turn.context, inputs, outputs);
    for (const auto& step : steps_) {
        if (sanitized) forbid_more(turn.context->scratch, step->scratch_floats(threads_));
        step->run(call);
    }
}

std::vector<double> Net::time_steps(const float* const* inputs, float* const* outputs, int repeats) {
    if (!ready_) throw BadNet("the net is not complete");
    const Turn turn(*this);
    const Pool::Busy busy(*turn.context->pool);
    const Call call = call_on(*turn.context, inputs, outputs);
    std::vector<double> least(steps_.size(), std::numeric_limits<double>::infinity());
    for (int i = 0; i < repeats; ++i)
        for (std::size_t k = 0; k < steps_.size(); ++k) {
            if (sanitized) forbid_more(turn.context->scratch, steps_[k]->scratch_floats(threads_));
            const double start = spent_s(threads_);
            steps_[k]->run(call);
            least[k] = std::min(least[k], spent_s(threads_) - start);
        }
    return least;
}

std::int64_t Net::memory_bytes() const {
    std::int64_t floats = 0, weights = 0;
    for (const auto& context : contexts_) floats += context->arena.size() + context->scratch.size();
    for (const auto& step : steps_) weights += step ? step->weight_bytes() : 0;
    return floats * std::int64_t(sizeof(float)) + weights;
}

std::vector<std::string> Net::step_names() const {
    std::vector<std::string> names;
    for (const auto& step : steps_) names.push_back(step ? step->name() : "");
    return names;
}

}  // namespace raceline::net
