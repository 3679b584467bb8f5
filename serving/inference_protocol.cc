#include "serving/inference_protocol.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "common/config.h"
#include "serving/infer_tensor.h"
#include "serving/json_text.h"
#include "serving/rank_json.h"

namespace savior {
namespace {

using nlohmann::json;
using Type = InferTensor::Type;

constexpr std::string_view kVector = "vector.";

const std::vector<std::string>& OutputNames() {
  static const std::vector<std::string> names = {"p_ctr", "p_cvr", "p_ctcvr"};
  return names;
}

absl::Status Wrong(const InferTensor& tensor, std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", tensor.path, what));
}

// That the tensor is of `type` and of one of `shapes`.
absl::Status CheckForm(const InferTensor& tensor, Type type,
                       const std::vector<std::vector<int64_t>>& shapes) {
  if (tensor.type != type) {
    return Wrong(tensor, fmt::format("datatype {}, must be {}", NameOf(tensor.type), NameOf(type)));
  }
  if (std::ranges::find(shapes, tensor.shape) != shapes.end()) return absl::OkStatus();
  std::vector<std::string> texts;
  texts.reserve(shapes.size());
  for (const auto& shape : shapes) texts.push_back(fmt::format("[{}]", fmt::join(shape, ", ")));
  return Wrong(tensor, fmt::format("shape [{}], must be {}", fmt::join(tensor.shape, ", "),
                                   fmt::join(texts, " or ")));
}

absl::Status CheckAtLeast(const InferTensor& tensor, int64_t least) {
  const auto below = [&](int64_t value) { return value < least; };
  const auto found = std::ranges::find_if(tensor.integers, below);
  if (found == tensor.integers.end()) return absl::OkStatus();
  return Wrong(tensor, fmt::format("element {} is {}, must be >= {}",
                                   found - tensor.integers.begin(), *found, least));
}

// Puts tensors into a request whose number of candidates is known.
class Filler {
 public:
  Filler(const RankLimits& limits, RankRequest& request) : limits_(limits), request_(request) {}

  absl::Status Items(const InferTensor& tensor) {
    if (tensor.shape.size() != 1) return Wrong(tensor, "two sizes in its shape, must be one: [C]");
    SAVIOR_RETURN_IF_ERROR(CheckForm(tensor, Type::kInt64, {tensor.shape}));
    SAVIOR_RETURN_IF_ERROR(CheckSizes(tensor.integers.size(), 0, limits_));
    SAVIOR_RETURN_IF_ERROR(CheckAtLeast(tensor, -1));
    candidates_ = tensor.shape[0];
    request_.candidates.resize(tensor.integers.size());
    for (size_t c = 0; c < tensor.integers.size(); ++c) {
      if (const int64_t id = tensor.integers[c]; id >= 0) {
        request_.candidates[c].item = static_cast<uint64_t>(id);
      }
    }
    return absl::OkStatus();
  }

  absl::Status History(const InferTensor* items, const InferTensor* times) {
    if (items == nullptr && times == nullptr) return absl::OkStatus();
    if (items == nullptr || times == nullptr) {
      return Wrong(items == nullptr ? *times : *items,
                   "history_item and history_timestamp come together or not at all");
    }
    if (items->shape.size() != 1) return Wrong(*items, "two sizes in its shape, must be one: [T]");
    SAVIOR_RETURN_IF_ERROR(CheckForm(*items, Type::kInt64, {items->shape}));
    SAVIOR_RETURN_IF_ERROR(CheckForm(*times, Type::kInt64, {items->shape}));
    SAVIOR_RETURN_IF_ERROR(CheckSizes(request_.candidates.size(), items->integers.size(), limits_));
    SAVIOR_RETURN_IF_ERROR(CheckAtLeast(*items, 0));
    SAVIOR_RETURN_IF_ERROR(CheckAtLeast(*times, 0));
    for (size_t t = 0; t < items->integers.size(); ++t) {
      request_.history.push_back(
          {.item = static_cast<uint64_t>(items->integers[t]), .timestamp = times->integers[t]});
    }
    return absl::OkStatus();
  }

  // Every other tensor.
  absl::Status Add(const InferTensor& tensor) {
    if (tensor.name == "user" || tensor.name == "timestamp") return One(tensor);
    if (tensor.name == "listed_at") return Integers(tensor, &Candidate::listed_at);
    if (tensor.name == "prior_count") return Integers(tensor, &Candidate::prior_count);
    if (tensor.name.starts_with("feat_") || tensor.name.starts_with("ctx_")) {
      return Feature(tensor);
    }
    if (tensor.name.starts_with("num_")) return Numeric(tensor);
    if (tensor.name.starts_with(kVector)) return Vector(tensor);
    static const std::vector<std::string> known = {
        "item",        "user",   "timestamp", "history_item", "history_timestamp", "listed_at",
        "prior_count", "feat_*", "ctx_*",     "num_*",        "vector.MODALITY"};
    return Wrong(tensor,
                 fmt::format("no such input; nearest is {}", Nearest(Clip(tensor.name), known)));
  }

 private:
  absl::Status One(const InferTensor& tensor) {
    SAVIOR_RETURN_IF_ERROR(CheckForm(tensor, Type::kInt64, {{1}}));
    const bool user = tensor.name == "user";
    SAVIOR_RETURN_IF_ERROR(CheckAtLeast(tensor, user ? -1 : 0));
    const int64_t value = tensor.integers[0];
    if (!user) {
      request_.timestamp = value;
    } else if (value >= 0) {
      request_.user = static_cast<uint64_t>(value);
    }
    return absl::OkStatus();
  }

  absl::Status Integers(const InferTensor& tensor, std::optional<int64_t> Candidate::*field) {
    SAVIOR_RETURN_IF_ERROR(CheckForm(tensor, Type::kInt64, {{candidates_}}));
    SAVIOR_RETURN_IF_ERROR(CheckAtLeast(tensor, -1));
    for (size_t c = 0; c < tensor.integers.size(); ++c) {
      if (tensor.integers[c] >= 0) request_.candidates[c].*field = tensor.integers[c];
    }
    return absl::OkStatus();
  }

  absl::Status Feature(const InferTensor& tensor) {
    SAVIOR_RETURN_IF_ERROR(CheckForm(tensor, Type::kBytes, {{candidates_}, {1}}));
    const bool of_all = tensor.strings.size() == 1;
    // RankRequest has features of the impression only; an item's go to every candidate.
    if (of_all && tensor.name.starts_with("ctx_")) {
      if (!tensor.strings[0].empty()) request_.features[tensor.name] = tensor.strings[0];
      return absl::OkStatus();
    }
    for (size_t c = 0; c < request_.candidates.size(); ++c) {
      const std::string& text = tensor.strings[of_all ? 0 : c];
      if (!text.empty()) request_.candidates[c].features[tensor.name] = text;
    }
    return absl::OkStatus();
  }

  absl::Status Numeric(const InferTensor& tensor) {
    SAVIOR_RETURN_IF_ERROR(CheckForm(tensor, Type::kFp32, {{candidates_}, {1}}));
    if (tensor.floats.size() == 1) {
      request_.numerics[tensor.name] = tensor.floats[0];
      return absl::OkStatus();
    }
    for (size_t c = 0; c < tensor.floats.size(); ++c) {
      request_.candidates[c].numerics[tensor.name] = tensor.floats[c];
    }
    return absl::OkStatus();
  }

  absl::Status Vector(const InferTensor& tensor) {
    if (tensor.shape.size() != 2) return Wrong(tensor, "one size in its shape, must be [C, dim]");
    SAVIOR_RETURN_IF_ERROR(CheckForm(tensor, Type::kFp32, {{candidates_, tensor.shape[1]}}));
    const size_t dim = static_cast<size_t>(tensor.shape[1]);
    const std::string modality = tensor.name.substr(kVector.size());
    for (size_t c = 0; c < request_.candidates.size(); ++c) {
      const auto row = std::span(tensor.floats).subspan(c * dim, dim);
      if (std::ranges::all_of(row, [](float value) { return value == 0; })) continue;
      request_.candidates[c].vectors[modality].assign(row.begin(), row.end());
    }
    return absl::OkStatus();
  }

  const RankLimits& limits_;
  RankRequest& request_;
  int64_t candidates_ = 0;
};

absl::Status Fill(const std::vector<InferTensor>& tensors, const RankLimits& limits,
                  RankRequest& request) {
  const InferTensor *items = nullptr, *history_items = nullptr, *history_times = nullptr;
  for (const InferTensor& tensor : tensors) {
    if (tensor.name == "item") items = &tensor;
    if (tensor.name == "history_item") history_items = &tensor;
    if (tensor.name == "history_timestamp") history_times = &tensor;
  }
  if (items == nullptr) {
    return absl::InvalidArgumentError(
        "inputs: item is missing: INT64 [C], the candidates' ids (-1: an item without one)");
  }
  Filler filler(limits, request);
  SAVIOR_RETURN_IF_ERROR(filler.Items(*items));
  SAVIOR_RETURN_IF_ERROR(filler.History(history_items, history_times));
  for (const InferTensor& tensor : tensors) {
    if (&tensor == items || &tensor == history_items || &tensor == history_times) continue;
    SAVIOR_RETURN_IF_ERROR(filler.Add(tensor));
  }
  return absl::OkStatus();
}

// A boolean parameter of the object at `path`, which may have "parameters".
absl::StatusOr<bool> ReadFlag(const json& object, std::string_view name, bool fallback,
                              const std::string& path) {
  if (!object.contains("parameters")) return fallback;
  const std::string at = JsonPath(path, "parameters");
  const json& parameters = object["parameters"];
  SAVIOR_RETURN_IF_ERROR(CheckKeys(parameters, at, {}));
  if (!parameters.contains(name)) return fallback;
  const json& value = parameters[std::string(name)];
  if (!value.is_boolean())
    return JsonError(JsonPath(at, name), DescribeJson(value), "true or false");
  return value.get<bool>();
}

absl::StatusOr<InferRequest::Output> ReadOutput(const json& value, const std::string& path,
                                                bool binary) {
  static const std::vector<std::string> known = {"name", "parameters"};
  SAVIOR_RETURN_IF_ERROR(CheckKeys(value, path, known));
  if (!value.contains("name")) {
    return absl::InvalidArgumentError(fmt::format("{}.name: missing", path));
  }
  InferRequest::Output output;
  SAVIOR_ASSIGN_OR_RETURN(output.name, ReadString(value["name"], JsonPath(path, "name")));
  if (std::ranges::find(OutputNames(), output.name) == OutputNames().end()) {
    return absl::InvalidArgumentError(fmt::format("{}: {}: no such output; nearest is {}", path,
                                                  Clip(output.name),
                                                  Nearest(Clip(output.name), OutputNames())));
  }
  SAVIOR_ASSIGN_OR_RETURN(output.binary, ReadFlag(value, "binary_data", binary, path));
  if (value.contains("parameters")) {
    for (const char* unsupported : {"classification", "shared_memory_region"}) {
      if (value["parameters"].contains(unsupported)) {
        return absl::InvalidArgumentError(
            fmt::format("{}.parameters.{}: not offered by this server", path, unsupported));
      }
    }
  }
  return output;
}

absl::Status ReadOutputs(const json& document, InferRequest& request) {
  SAVIOR_ASSIGN_OR_RETURN(const bool binary, ReadFlag(document, "binary_data_output", false, ""));
  if (document.contains("outputs")) {
    const json& outputs = document["outputs"];
    SAVIOR_RETURN_IF_ERROR(CheckList(outputs, "outputs", "objects {\"name\"}"));
    for (const json& value : outputs) {
      const std::string path = JsonPath("outputs", request.outputs.size());
      SAVIOR_ASSIGN_OR_RETURN(InferRequest::Output output, ReadOutput(value, path, binary));
      for (const auto& other : request.outputs) {
        if (other.name == output.name) {
          return absl::InvalidArgumentError(
              fmt::format("{}: {} is asked for twice", path, output.name));
        }
      }
      request.outputs.push_back(std::move(output));
    }
  }
  if (request.outputs.empty()) {  // none, or an empty list: all of them
    for (const std::string& name : OutputNames()) request.outputs.push_back({name, binary});
  }
  return absl::OkStatus();
}

const std::vector<float>& Values(const RankScores& scores, const std::string& output) {
  if (output == "p_ctr") return scores.p_ctr;
  return output == "p_cvr" ? scores.p_cvr : scores.p_ctcvr;
}

std::string Metadata(std::string_view name, Type type, std::string_view shape) {
  return fmt::format(R"({{"name":{},"datatype":"{}","shape":[{}]}})", JsonString(name),
                     NameOf(type), shape);
}

}  // namespace

absl::StatusOr<InferRequest> ParseInferRequest(std::string_view body,
                                               std::optional<size_t> json_bytes,
                                               const RankLimits& limits, int64_t now) {
  static const std::vector<std::string> known = {"id", "parameters", "inputs", "outputs"};
  if (json_bytes.value_or(0) > body.size()) {
    return absl::InvalidArgumentError(fmt::format(
        "Inference-Header-Content-Length: {}, the body has {} bytes", *json_bytes, body.size()));
  }
  const std::string_view text = body.substr(0, json_bytes.value_or(body.size()));
  SAVIOR_ASSIGN_OR_RETURN(const json document, ParseJsonObject(text));
  SAVIOR_RETURN_IF_ERROR(CheckKeys(document, "", known));
  InferRequest request;
  if (document.contains("id")) {
    SAVIOR_ASSIGN_OR_RETURN(request.id, ReadString(document["id"], "id"));
  }
  SAVIOR_RETURN_IF_ERROR(ReadOutputs(document, request));
  if (!document.contains("inputs")) return absl::InvalidArgumentError("inputs: missing");
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<InferTensor> tensors,
                          ReadInferTensors(document["inputs"], body.substr(text.size())));
  request.rank.timestamp = now;
  SAVIOR_RETURN_IF_ERROR(Fill(tensors, limits, request.rank));
  return request;
}

InferResponse MakeInferResponse(const RankScores& scores, const InferRequest& request,
                                std::string_view version) {
  InferResponse response;
  std::string text =
      fmt::format(R"({{"model_name":"{}","model_version":{},)", kModelName, JsonString(version));
  if (!request.id.empty()) text += fmt::format(R"("id":{},)", JsonString(request.id));
  std::vector<std::string> outputs;
  std::string binary;
  bool any_binary = false;
  for (const InferRequest::Output& output : request.outputs) {
    const std::vector<float>& values = Values(scores, output.name);
    std::string data;
    if (output.binary) {
      any_binary = true;
      const size_t bytes = values.size() * sizeof(float);
      data = fmt::format(R"("parameters":{{"binary_data_size":{}}})", bytes);
      binary.append(reinterpret_cast<const char*>(values.data()), bytes);
    } else {
      data = fmt::format(R"("data":[{}])", fmt::join(values, ","));
    }
    outputs.push_back(fmt::format(R"({{"name":"{}","datatype":"FP32","shape":[{}],{}}})",
                                  output.name, values.size(), data));
  }
  text += fmt::format(R"("outputs":[{}]}})", fmt::join(outputs, ","));
  if (any_binary) response.json_bytes = text.size();
  response.body = std::move(text) + binary;
  return response;
}

std::string ServerMetadata(std::string_view server_version) {
  return fmt::format(R"({{"name":"{}","version":{},"extensions":["binary_tensor_data"]}})",
                     kModelName, JsonString(server_version));
}

std::string ModelMetadata(const ModelCard& card) {
  std::vector<std::string> inputs;
  for (const char* name :
       {"item", "history_item", "history_timestamp", "listed_at", "prior_count"}) {
    inputs.push_back(Metadata(name, Type::kInt64, "-1"));
  }
  for (const char* name : {"user", "timestamp"}) {
    inputs.push_back(Metadata(name, Type::kInt64, "1"));
  }
  for (const auto* names : {&card.item_features, &card.context_features}) {
    for (const auto& name : *names) inputs.push_back(Metadata(name, Type::kBytes, "-1"));
  }
  for (const auto* names : {&card.item_numerics, &card.context_numerics}) {
    for (const auto& name : *names) inputs.push_back(Metadata(name, Type::kFp32, "-1"));
  }
  for (const auto& modality : card.modalities) {
    inputs.push_back(Metadata(std::string(kVector) + modality.name, Type::kFp32,
                              fmt::format("-1,{}", modality.dim)));
  }
  std::vector<std::string> outputs;
  for (const auto& name : OutputNames()) outputs.push_back(Metadata(name, Type::kFp32, "-1"));
  return fmt::format(
      R"({{"name":"{}","versions":[{}],"platform":"savior","inputs":[{}],"outputs":[{}]}})",
      kModelName, JsonString(card.version), fmt::join(inputs, ","), fmt::join(outputs, ","));
}

}  // namespace savior
