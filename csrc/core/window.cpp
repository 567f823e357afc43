#include "core/window.h"

namespace lamella {
namespace {

bool is_sequence(py::handle object) {
  return PyTuple_Check(object.ptr()) || PyList_Check(object.ptr());
}

[[noreturn]] void wrong_padding(const char* op, py::handle object) {
  throw ValueError(message(op,
                           ": padding must be \"valid\", \"same\", an integer, (height, width) or "
                           "((top, bottom), (left, right)) of integers >= 0, got ",
                           repr_text(object)));
}

// `whole` is the argument as the caller gave it, for the message.
std::int64_t padding_size(const char* op, py::handle object, py::handle whole) {
  if (!as_index(object)) wrong_padding(op, whole);
  const std::int64_t size = int_option(op, "padding", object);
  if (size < 0) wrong_padding(op, whole);
  return size;
}

std::array<std::int64_t, 2> padding_of_axis(const char* op, py::handle object, py::handle whole) {
  if (!is_sequence(object)) {
    const std::int64_t size = padding_size(op, object, whole);
    return {size, size};
  }
  const auto pair = py::reinterpret_borrow<py::sequence>(object);
  if (pair.size() != 2) wrong_padding(op, whole);
  return {padding_size(op, pair[0], whole), padding_size(op, pair[1], whole)};
}

void at_least_one(const char* op, const char* axis, const char* what, std::int64_t size) {
  if (size >= 1) return;
  throw ValueError(message(op, ": ", what, " must be at least 1, got ", size, " (", axis, ")"));
}

}  // namespace

Padding parse_padding(const char* op, py::handle object) {
  if (PyUnicode_Check(object.ptr())) {
    if (is_text(object, "valid")) return {Padding::Kind::valid, {}};
    if (is_text(object, "same")) return {Padding::Kind::same, {}};
    wrong_padding(op, object);
  }
  if (!is_sequence(object)) {
    const auto both = padding_of_axis(op, object, object);
    return {Padding::Kind::explicit_sizes, {both, both}};
  }
  const auto pair = py::reinterpret_borrow<py::sequence>(object);
  if (pair.size() != 2) wrong_padding(op, object);
  const py::object height = pair[0];
  const py::object width = pair[1];
  // (1, (2, 3)) is more likely a slip than meant.
  if (is_sequence(height) != is_sequence(width)) wrong_padding(op, object);
  return {Padding::Kind::explicit_sizes,
          {padding_of_axis(op, height, object), padding_of_axis(op, width, object)}};
}

WindowAxis window_axis(const char* op, const char* axis, std::int64_t input, std::int64_t kernel,
                       std::int64_t stride, std::int64_t dilation, const Padding& padding,
                       int index, bool ceil_mode) {
  at_least_one(op, axis, "the input's size", input);
  at_least_one(op, axis, "the window's size", kernel);
  at_least_one(op, axis, "strides", stride);
  at_least_one(op, axis, "dilation", dilation);
  constexpr const char* window_text = "the dilated window";
  const std::int64_t extent =
      checked_add(op, window_text, checked_multiply(op, window_text, kernel - 1, dilation), 1);
  std::int64_t before = padding.sizes[static_cast<std::size_t>(index)][0];
  std::int64_t after = padding.sizes[static_cast<std::size_t>(index)][1];
  if (padding.kind == Padding::Kind::same) {
    // The last window starts at a multiple of stride below input: only its extent can overflow.
    const std::int64_t last_start = (input - 1) / stride * stride;
    const std::int64_t total = checked_add(op, window_text, last_start - input, extent);
    before = total > 0 ? total / 2 : 0;
    after = total > 0 ? total - before : 0;
  }
  constexpr const char* padded_text = "the padded input";
  const std::int64_t padded =
      checked_add(op, padded_text, checked_add(op, padded_text, before, input), after);
  if (extent > padded) {
    throw ValueError(message(op, ": the window is larger than the padded input: ", axis, " ",
                             extent, " (", kernel, " taps, dilation ", dilation, ") against ",
                             padded, " (", input, " + padding ", before, " + ", after, ")"));
  }
  const std::int64_t room = padded - extent;
  std::int64_t output = room / stride + 1;
  // The next window would start at room - room % stride + stride.
  if (ceil_mode && room % stride != 0 && stride < before + input - (room - room % stride)) {
    ++output;
  }
  return {input, kernel, stride, dilation, before, after, output};
}

std::array<WindowAxis, 2> window_axes(const char* op, std::array<std::int64_t, 2> input,
                                      std::array<std::int64_t, 2> kernel,
                                      std::array<std::int64_t, 2> stride,
                                      std::array<std::int64_t, 2> dilation, py::handle padding,
                                      bool ceil_mode) {
  const Padding parsed = parse_padding(op, padding);
  return {
      window_axis(op, "height", input[0], kernel[0], stride[0], dilation[0], parsed, 0, ceil_mode),
      window_axis(op, "width", input[1], kernel[1], stride[1], dilation[1], parsed, 1, ceil_mode)};
}

}  // namespace lamella
