// Python's lock given back for the time of a computation; used by the *_bind.cpp files.
//
// pybind11::gil_scoped_release does the same with one difference. A daemon thread that wants the
// lock again while the interpreter shuts down is ended by Python (up to 3.13) by unwinding its
// stack; that would leave a destructor, which aborts the process. Here the thread sleeps until the
// process is gone, as Python does from 3.14 on.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

namespace lamella {

class ReleaseGil {
 public:
  ReleaseGil() : state_(PyEval_SaveThread()) {}
  ~ReleaseGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  ReleaseGil(const ReleaseGil&) = delete;
  ReleaseGil& operator=(const ReleaseGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace lamella
