// The size of the last level of cache, for the one decision that hangs on it.
#pragma once

#include <cstdint>

namespace lamella {

// Whether a result of so many bytes is written past the caches: it would not be there any more when
// the next op reads it from its beginning, and storing it the usual way first reads the memory that
// is about to be overwritten.
bool outgrows_cache(std::int64_t bytes);

}  // namespace lamella
