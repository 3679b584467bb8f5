#include "serving/triton.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/substitute.h>

#include <algorithm>

namespace savior {
namespace {

bool IsFolderName(const std::string& name) {
  return !name.empty() && name[0] != '.' && std::ranges::all_of(name, [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.';
  });
}

std::string Tensor(const std::string& name, const std::string& dims) {
  return absl::Substitute("  { name: \"$0\" data_type: TYPE_FP32 dims: [ $1 ] }", name, dims);
}

}  // namespace

absl::StatusOr<std::string> TritonConfig(const Graph& graph, const TritonOptions& options) {
  if (!IsFolderName(options.name)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", options.name, "\" is no name for a Triton model: letters, digits, _, - and . only"));
  }
  if (options.instances < 1 || options.threads < 1) {
    return absl::InvalidArgumentError(absl::StrCat("a Triton model with ", options.instances,
                                                   " instances of ", options.threads,
                                                   " threads: at least one of each"));
  }
  std::string text = absl::Substitute(
      "name: \"$0\"\nplatform: \"onnxruntime_onnx\"\nmax_batch_size: 0\n", options.name);
  const char* separator = "input [\n";
  for (const size_t input : graph.inputs()) {
    const GraphValue& value = graph.value(input);
    absl::StrAppend(
        &text, separator,
        Tensor(value.name, absl::StrCat(value.rows == Rows::kOne ? "1" : "-1", ", ", value.width)));
    separator = ",\n";
  }
  separator = "\n]\noutput [\n";
  for (const size_t output : graph.outputs()) {
    absl::StrAppend(&text, separator, Tensor(graph.value(output).name, "-1"));
    separator = ",\n";
  }
  absl::StrAppend(&text, "\n]\n");
  absl::StrAppend(&text, absl::Substitute("instance_group [ { count: $0 kind: KIND_CPU } ]\n",
                                          options.instances));
  for (const char* key : {"intra_op_thread_count", "inter_op_thread_count"}) {
    absl::StrAppend(
        &text, absl::Substitute("parameters { key: \"$0\" value: { string_value: \"$1\" } }\n", key,
                                options.threads));
  }
  return text;
}

}  // namespace savior
