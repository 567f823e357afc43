// Which tile, and how many splits, a product gets: a pure function of the sizes and the device.
#pragma once

#include <cstdint>

namespace lamella::device::gemm {
}
