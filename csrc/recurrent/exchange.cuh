// Blocks of a cooperative launch that hand one another data once a step.
//
// Blocks of a group (those that share sequences) count their arrivals in one word of L2; a block
// waits for its group alone, and only when it needs the data: what it can load before, it does.
#pragma once

#include "cuda/kernel.cuh"
#include "cuda/signal.cuh"

namespace lamella::recurrent {

// Words between the counters of two groups: a line of L2 each.
constexpr int arrivals_stride = 32;

class Exchange {
 public:
  // `arrivals` are zeros at the launch.
  __device__ Exchange(unsigned* arrivals, int group, int members)
      : count_(arrivals == nullptr ? nullptr : arrivals + group * arrivals_stride),
        members_(static_cast<unsigned>(members)),
        target_(0) {}

  // All of the block's stores are visible to whoever waits.
  __device__ void arrive() {
    __syncthreads();
    target_ += members_;
    if (threadIdx.x == 0) device::signal_add(count_, 1u);
  }

  // For as many arrivals of every member as this block's own. What is read afterwards is read past
  // L1 (__ldcg).
  __device__ void wait() {
    if (threadIdx.x == 0) device::signal_wait(count_, target_);
    __syncthreads();
  }

 private:
  unsigned* count_;
  unsigned members_, target_;
};

}  // namespace lamella::recurrent
