#include "buffer_cache.h"

#include <iterator>
#include <list>
#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "mlx/allocator.h"

namespace {

using mlx::core::allocator::Buffer;

// Smaller ones are recycled by the C library.
constexpr size_t kSmallest = 1 << 17;
// A buffer may be larger than the request by one part in this many.
constexpr size_t kTightness = 4;

// Where the system has pages of this size, touching fresh memory for the first
// time and looking up its addresses cost a fraction.
constexpr size_t kLargePage = 2 << 20;

void advise_large_pages(void* data, size_t size) {
#if defined(__linux__)
  const auto start = reinterpret_cast<size_t>(data);
  const auto first = (start + kLargePage - 1) / kLargePage * kLargePage;
  const auto end = (start + size) / kLargePage * kLargePage;
  if (end > first) {
    madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
  }
#endif
}

size_t limit() {
#if defined(_SC_PHYS_PAGES)
  const auto pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  if (pages > 0 && size > 0) {
    return static_cast<size_t>(pages) / 4 * static_cast<size_t>(size);
  }
#endif
  return size_t{1} << 30;
}

class BufferCache {
 public:
  Buffer take(size_t size) {
    std::lock_guard lock(mutex_);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      const bool fits = it->size >= size && it->size <= size + size / kTightness;
      if (fits && (best == free_.end() || it->size < best->size)) {
        best = it;
      }
    }
    if (best == free_.end()) {
      return Buffer(nullptr);
    }
    const Buffer buffer = best->buffer;
    bytes_ -= best->size;
    free_.erase(best);
    return buffer;
  }

  void give(Buffer buffer, size_t size) {
    std::list<Entry> evicted;
    {
      std::lock_guard lock(mutex_);
      free_.push_front({buffer, size});
      bytes_ += size;
      while (bytes_ > limit_) {
        // The oldest: a size that nobody asks for any more.
        bytes_ -= free_.back().size;
        evicted.splice(evicted.end(), free_, std::prev(free_.end()));
      }
    }
    for (const auto& entry : evicted) {
      mlx::core::allocator::free(entry.buffer);
    }
  }

 private:
  struct Entry {
    Buffer buffer;
    size_t size;
  };
  std::mutex mutex_;
  std::list<Entry> free_;
  size_t bytes_ = 0;
  const size_t limit_ = limit();
};

// Never destroyed: arrays may die after everything static.
BufferCache& cache() {
  static auto* cache = new BufferCache;
  return *cache;
}

} // namespace

void allocate_cached(mlx::core::array& a) {
  const size_t size = a.nbytes();
  if (size < kSmallest) {
    a.set_data(mlx::core::allocator::malloc(size));
    return;
  }
  Buffer buffer = cache().take(size);
  if (buffer.ptr() == nullptr) {
    buffer = mlx::core::allocator::malloc(size);
    advise_large_pages(buffer.raw_ptr(), size);
  }
  const size_t whole = mlx::core::allocator::allocator().size(buffer);
  a.set_data(buffer, [whole](Buffer buffer) { cache().give(buffer, whole); });
}
