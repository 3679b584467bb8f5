#include <gtest/gtest.h>
#include <torch/script.h>

#include <sstream>

#include "serving/torchscript_writer.h"
#include "tests/serving/ranker_request.h"

namespace savior {
namespace {

// What `module` says about `request`.
std::vector<std::vector<float>> Forward(torch::jit::Module& module, const GraphRunner& runner,
                                        const RankerRequest& request) {
  const GraphRequest flat = InputsOf(runner, request);
  std::vector<c10::IValue> inputs;
  for (size_t i = 0; i < flat.inputs.size(); ++i) {
    const int64_t width = runner.inputs()[i].width;
    const auto rows = static_cast<int64_t>(flat.inputs[i].size()) / width;
    inputs.emplace_back(
        torch::from_blob(const_cast<float*>(flat.inputs[i].data()), {rows, width}).clone());
  }
  std::vector<std::vector<float>> outputs;
  const auto results = module.forward(inputs).toTuple();
  for (const c10::IValue& result : results->elements()) {
    const at::Tensor scores = result.toTensor().contiguous();
    EXPECT_EQ(scores.dim(), 1);
    outputs.emplace_back(scores.data_ptr<float>(), scores.data_ptr<float>() + scores.numel());
  }
  return outputs;
}

TEST(TorchScriptModule, LoadsAndAgreesWithTheRunner) {
  const torch::NoGradGuard no_grad;
  for (const RankerCase& model : RankerCases()) {
    SCOPED_TRACE(model.name);
    Ranker ranker = RandomRanker(model, 5);
    const Graph graph = *RankerGraph(model.config, model.sizes, ranker.dense().Save());
    const GraphRunner runner(graph);
    const absl::StatusOr<std::string> bytes = TorchScriptModule(graph, {{"step", "12"}});
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    std::istringstream stream(*bytes);
    torch::jit::ExtraFilesMap files = {{"step", ""}};
    torch::jit::Module module = torch::jit::load(stream, c10::nullopt, files);
    EXPECT_EQ(files.at("step"), "12");
    module.eval();
    EXPECT_EQ(module.buffers().size(), graph.weights().size());
    Random random(6, HashName(model.name));
    for (const auto& [history, candidates] :
         {std::pair<int64_t, int64_t>{0, 4}, {0, 1}, {7, 1}, {9, 12}}) {
      const RankerRequest request = RandomRequest(model, ranker, history, candidates, &random);
      const auto expected = *runner.Run(InputsOf(runner, request));
      const auto scores = Forward(module, runner, request);
      ASSERT_EQ(scores.size(), 3u);
      for (size_t o = 0; o < 3; ++o) {
        ASSERT_EQ(scores[o].size(), expected[o].size());
        for (size_t n = 0; n < scores[o].size(); ++n) {
          EXPECT_NEAR(scores[o][n], expected[o][n], 1e-5);
        }
      }
    }
  }
}

}  // namespace
}  // namespace savior
