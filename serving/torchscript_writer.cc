#include "serving/torchscript_writer.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <torch/script.h>

#include <exception>
#include <sstream>
#include <utility>

namespace savior {

absl::StatusOr<std::string> TorchScriptModule(const Graph& graph,
                                              const std::map<std::string, std::string>& metadata) {
  try {
    torch::jit::Module module("__torch__.SaviorRanker");
    // What eval() and train() look for.
    module.register_attribute("training", c10::BoolType::get(), false);
    for (const auto& [name, tensor] : graph.weights()) {
      // Only read from.
      auto* const data = const_cast<float*>(tensor.data.data());
      module.register_buffer(absl::StrReplaceAll(name, {{".", "_"}}),
                             torch::from_blob(data, tensor.shape, torch::kFloat));
    }
    module.define(TorchScriptSource(graph));
    torch::jit::ExtraFilesMap files;
    for (const auto& [name, text] : metadata) files[name] = text;
    std::ostringstream bytes;
    module.save(bytes, files);
    return std::move(bytes).str();
  } catch (const c10::Error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("writing TorchScript: ", error.what_without_backtrace()));
  } catch (const std::exception& error) {  // the compiler's reports are not c10's
    return absl::InvalidArgumentError(absl::StrCat("writing TorchScript: ", error.what()));
  }
}

}  // namespace savior
