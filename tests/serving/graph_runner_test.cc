#include "serving/graph_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "serving/packed_product.h"
#include "tests/serving/ranker_request.h"

namespace savior {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr double kTolerance = 1e-5;

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  return most;
}

// Lengths of request `number`: every fifth without history, every seventh with one candidate.
int64_t HistoryOf(int64_t number) { return number % 5 == 0 ? 0 : number * 7 % 23; }
int64_t CandidatesOf(int64_t number) { return number % 7 == 0 ? 1 : 1 + number * 5 % 131; }

struct Scores {
  std::vector<float> ctr, ctcvr;
};

Scores Predict(Ranker& ranker, const RankerRequest& request) {
  Scores scores;
  ranker.Predict(request.step, &scores.ctr, &scores.ctcvr);
  return scores;
}

// `requests` random ones; returns how far apart their pCTRs are.
double ExpectAgreement(const RankerCase& model, int64_t requests) {
  SCOPED_TRACE(model.name);
  Ranker ranker = RandomRanker(model, 17);
  const absl::StatusOr<Graph> graph = RankerGraph(model.config, model.sizes, ranker.dense().Save());
  EXPECT_TRUE(graph.ok()) << graph.status();
  if (!graph.ok()) return 0;
  const GraphRunner runner(*graph);
  EXPECT_THAT(runner.outputs(), testing::ElementsAre("p_ctr", "p_cvr", "p_ctcvr"));
  Random random(3, HashName(model.name));
  float least = 1, most = 0;
  for (int64_t i = 0; i < requests; ++i) {
    const RankerRequest request =
        RandomRequest(model, ranker, HistoryOf(i), CandidatesOf(i), &random);
    const auto scores = runner.Run(InputsOf(runner, request));
    EXPECT_TRUE(scores.ok()) << scores.status();
    if (!scores.ok()) return 0;
    const Scores expected = Predict(ranker, request);
    EXPECT_LE(LargestDifference((*scores)[0], expected.ctr), kTolerance) << "request " << i;
    EXPECT_LE(LargestDifference((*scores)[2], expected.ctcvr), kTolerance) << "request " << i;
    for (size_t n = 0; n < expected.ctr.size(); ++n) {
      EXPECT_NEAR((*scores)[1][n] * expected.ctr[n], expected.ctcvr[n], kTolerance);
      least = std::min(least, expected.ctr[n]);
      most = std::max(most, expected.ctr[n]);
    }
  }
  return most - least;
}

TEST(GraphRunner, AgreesWithTheRankerInEveryArm) {
  for (const RankerCase& model : RankerCases()) {
    // Scores that hardly differ would agree with anything.
    EXPECT_GT(ExpectAgreement(model, 100), 0.05) << model.name;
  }
}

TEST(GraphRunner, AgreesWithTheRankerOfDefaultSize) {
  for (const std::string arm : kArms) EXPECT_GT(ExpectAgreement(DefaultCase(arm), 10), 0.05);
}

TEST(GraphRunner, GivesACandidateTheSameScoreWhateverElseIsRanked) {
  const RankerCase model = DefaultCase("savior");
  Ranker ranker = RandomRanker(model, 1);
  const GraphRunner runner(*RankerGraph(model.config, model.sizes, ranker.dense().Save()));
  Random random(8);
  const RankerRequest request = RandomRequest(model, ranker, 20, 137, &random);
  const GraphRequest all = InputsOf(runner, request);
  const auto together = runner.Run(all);
  for (int64_t n = 0; n < 137; ++n) {
    GraphRequest one = all;
    one.candidates = 1;
    for (size_t i = 0; i < one.inputs.size(); ++i) {
      const GraphValue& input = runner.inputs()[i];
      if (input.rows != Rows::kCandidates) continue;
      one.inputs[i] = all.inputs[i].subspan(static_cast<size_t>(n * input.width),
                                            static_cast<size_t>(input.width));
    }
    EXPECT_EQ((*runner.Run(one))[0][0], (*together)[0][static_cast<size_t>(n)]) << n;
  }
}

TEST(GraphRunner, ServesManyThreadsAtOnce) {
  const RankerCase model = RankerCases()[15];
  ASSERT_EQ(model.name, "savior");
  Ranker ranker = RandomRanker(model, 1);
  const GraphRunner runner(*RankerGraph(model.config, model.sizes, ranker.dense().Save()));
  Random random(4);
  std::vector<RankerRequest> requests;
  std::vector<std::vector<std::vector<float>>> expected;
  for (int64_t i = 0; i < 20; ++i) {
    requests.push_back(RandomRequest(model, ranker, HistoryOf(i), CandidatesOf(i), &random));
    expected.push_back(*runner.Run(InputsOf(runner, requests.back())));
  }
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < 400; ++i) {
        const size_t r = i % requests.size();
        count += *runner.Run(InputsOf(runner, requests[r])) != expected[r];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

TEST(GraphRunner, NamesAnInputOfAnotherShape) {
  const RankerCase model = RankerCases()[0];
  Ranker ranker = RandomRanker(model, 1);
  const GraphRunner runner(*RankerGraph(model.config, model.sizes, ranker.dense().Save()));
  Random random(4);
  const RankerRequest request = RandomRequest(model, ranker, 3, 2, &random);
  const auto message_of = [&](const GraphRequest& bad) {
    const absl::Status status = runner.Run(bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  GraphRequest bad = InputsOf(runner, request);
  ASSERT_EQ(runner.inputs()[2].name, "item");
  bad.inputs[2] = bad.inputs[2].first(15);
  EXPECT_EQ(message_of(bad), "input item has 15 values, not 2 x 8 ([C, 8])");
  bad = InputsOf(runner, request);
  bad.history = 4;
  EXPECT_EQ(message_of(bad), "input history_item has 24 values, not 4 x 8 ([T, 8])");
  bad = InputsOf(runner, request);
  bad.inputs.pop_back();
  EXPECT_EQ(message_of(bad), "5 inputs, the model takes 6");
  bad = InputsOf(runner, request);
  bad.candidates = 0;
  EXPECT_EQ(message_of(bad), "a request without candidates");
  bad = InputsOf(runner, request);
  bad.history = -1;
  EXPECT_EQ(message_of(bad), "a history of length -1");
}

// Every number of rows and outputs around the sizes of its tiles, beside plain loops.
TEST(SumProducts, IsTheSumOfItsProducts) {
  Random random(2);
  const auto normals = [&](int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = static_cast<float>(random.Normal());
    return values;
  };
  constexpr int64_t kInputs = 9, kFirst = 4, kStride = 11;
  for (const int64_t outputs : {1, 15, 16, 17, 40}) {
    const HostTensor weight{{outputs, kInputs}, normals(outputs * kInputs)};
    const PackedWeight first(weight, 0, kFirst), second(weight, kFirst, kInputs - kFirst);
    const std::vector<float> bias = normals(outputs);
    for (int64_t rows = 0; rows <= 29; ++rows) {
      const std::vector<float> x = normals(rows * kStride);
      const ProductTerm terms[] = {
          PackedTerm(x.data(), kStride, kFirst, first.values.data()),
          PackedTerm(x.data() + kFirst, kStride, kInputs - kFirst, second.values.data())};
      // One more value, which must stay.
      std::vector<float> y(static_cast<size_t>(rows * outputs) + 1, 7.0f);
      SumProducts(terms, bias.data(), Activation::kNone, rows, outputs, outputs, y.data());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < outputs; ++o) {
          double sum = bias[static_cast<size_t>(o)];
          for (int64_t k = 0; k < kInputs; ++k) {
            sum += static_cast<double>(x[static_cast<size_t>(r * kStride + k)]) *
                   weight.data[static_cast<size_t>(o * kInputs + k)];
          }
          ASSERT_NEAR(y[static_cast<size_t>(r * outputs + o)], sum, 1e-5);
        }
      }
      EXPECT_EQ(y.back(), 7.0f);
    }
  }
}

}  // namespace
}  // namespace savior
