// Writes models and requests with the ranker's scores, for tests in other languages:
//
//   write_examples FOLDER
//
//   FOLDER/<case>/model.onnx, model.pt, dense.safetensors
//   FOLDER/<case>/requests.safetensors   "<number>.<input>", "<number>.p_ctr", "<number>.p_ctcvr"
#include <fstream>
#include <iostream>

#include "common/tensor_file.h"
#include "serving/onnx_writer.h"
#include "serving/torchscript_writer.h"
#include "tests/serving/ranker_request.h"

namespace savior {
namespace {

// (T, C): no history, one candidate, both, and others.
constexpr std::pair<int64_t, int64_t> kLengths[] = {{0, 5}, {3, 1}, {0, 1}, {1, 2}, {50, 33}};

void AddRequest(const GraphRunner& runner, Ranker& ranker, const RankerRequest& request,
                const std::string& number, TensorFile* file) {
  for (const GraphValue& input : runner.inputs()) {
    const int64_t rows = input.rows == Rows::kOne       ? 1
                         : input.rows == Rows::kHistory ? request.history
                                                        : request.candidates;
    const auto found = request.inputs.find(input.name);
    file->tensors[number + "." + input.name] = {
        {rows, input.width}, found == request.inputs.end() ? std::vector<float>() : found->second};
  }
  std::vector<float> ctr, ctcvr;
  ranker.Predict(request.step, &ctr, &ctcvr);
  file->tensors[number + ".p_ctr"] = {{request.candidates}, ctr};
  file->tensors[number + ".p_ctcvr"] = {{request.candidates}, ctcvr};
}

absl::Status WriteBytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  return out.flush().good() ? absl::OkStatus() : absl::DataLossError(path.string());
}

absl::Status WriteCase(const RankerCase& model, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  Ranker ranker = RandomRanker(model, 17);
  const TensorFile dense = ranker.dense().Save();
  SAVIOR_ASSIGN_OR_RETURN(const Graph graph, RankerGraph(model.config, model.sizes, dense));
  const GraphRunner runner(graph);
  SAVIOR_ASSIGN_OR_RETURN(
      const std::string onnx,
      OnnxModel(graph, {.producer_version = "1.2.3",
                        .metadata = {{"arm", model.config.model.arm}, {"step", "1200"}}}));
  SAVIOR_ASSIGN_OR_RETURN(const std::string script, TorchScriptModule(graph, {{"step", "1200"}}));
  SAVIOR_RETURN_IF_ERROR(WriteBytes(folder / "model.onnx", onnx));
  SAVIOR_RETURN_IF_ERROR(WriteBytes(folder / "model.pt", script));
  SAVIOR_RETURN_IF_ERROR(WriteTensorFile(folder / "dense.safetensors", dense));

  TensorFile requests;
  Random random(21, HashName(model.name));
  int64_t number = 0;
  for (const auto& [history, candidates] : kLengths) {
    AddRequest(runner, ranker, RandomRequest(model, ranker, history, candidates, &random),
               std::to_string(number++), &requests);
  }
  return WriteTensorFile(folder / "requests.safetensors", requests);
}

int Main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: write_examples FOLDER\n";
    return 2;
  }
  std::vector<RankerCase> models = RankerCases();
  models.push_back(DefaultCase("savior"));
  models.back().name = "default_size";
  for (const RankerCase& model : models) {
    if (const absl::Status status = WriteCase(model, std::filesystem::path(argv[1]) / model.name);
        !status.ok()) {
      std::cerr << "error: " << model.name << ": " << status << "\n";
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) { return savior::Main(argc, argv); }
