#include "worker/model/kmeans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "common/random.h"

namespace savior {
namespace {

using ::testing::ElementsAre;

std::vector<float> RandomPoints(size_t n, size_t dim, uint64_t seed) {
  Random random(seed);
  std::vector<float> points(n * dim);
  for (float& v : points) v = static_cast<float>(random.Normal());
  return points;
}

double SquaredDistance(std::span<const float> a, std::span<const float> b) {
  double sum = 0.0;
  for (size_t d = 0; d < a.size(); ++d) sum += (double{a[d]} - b[d]) * (double{a[d]} - b[d]);
  return sum;
}

TEST(CodeSearch, FindsWhatBruteForceFinds) {
  for (const size_t k : {1u, 2u, 31u, 32u, 33u, 100u}) {
    const size_t dim = 7;
    const std::vector<float> codes = RandomPoints(k, dim, k);
    const std::vector<float> points = RandomPoints(200, dim, 1000 + k);
    const CodeSearch search(codes, dim);
    for (size_t i = 0; i < 200; ++i) {
      const std::span<const float> x = std::span(points).subspan(i * dim, dim);
      double least = std::numeric_limits<double>::infinity();
      for (size_t c = 0; c < k; ++c)
        least = std::min(least, SquaredDistance(x, std::span(codes).subspan(c * dim, dim)));
      const CodeSearch::Hit hit = search.Nearest(x);
      EXPECT_NEAR(SquaredDistance(x, search.code(hit.code)), least, 1e-5);
      EXPECT_NEAR(hit.distance, least, 1e-5);
    }
  }
}

TEST(CodeSearch, GivesATieToTheLowestIndex) {
  const CodeSearch twins({std::vector<float>{5, 5, 1, 0, -1, 0, 1, 0}}, 2);
  EXPECT_EQ(twins.Nearest(std::vector<float>{0, 0}).code, 1);  // 1, 2 and 3 are equally near
  EXPECT_EQ(twins.Nearest(std::vector<float>{1, 0}).code, 1);  // 3 equals 1
  std::vector<float> many(3 * 40, 2.0f);                       // the tie spans two blocks
  EXPECT_EQ(CodeSearch(many, 3).Nearest(std::vector<float>{0, 0, 0}).code, 0);
}

TEST(KMeans, AssignsEveryPointToItsNearestCentroid) {
  const size_t dim = 5;
  const std::vector<float> points = RandomPoints(500, dim, 3);
  const KMeans result = TrainKMeans(points, dim, {}, {.codes = 20, .iterations = 30, .seed = 1});
  double error = 0.0;
  for (size_t i = 0; i < 500; ++i) {
    const std::span<const float> x = std::span(points).subspan(i * dim, dim);
    double least = std::numeric_limits<double>::infinity();
    for (size_t k = 0; k < 20; ++k) {
      least =
          std::min(least, SquaredDistance(x, std::span(result.centroids).subspan(k * dim, dim)));
    }
    const auto own = static_cast<size_t>(result.assignment[i]);
    EXPECT_NEAR(SquaredDistance(x, std::span(result.centroids).subspan(own * dim, dim)), least,
                1e-5);
    error += least / 500;
  }
  EXPECT_NEAR(result.error, error, 1e-5);
}

TEST(KMeans, FindsPlantedClusters) {
  const std::vector<float> centres = {0, 0, 10, 0, 0, 10, 10, 10};
  std::vector<float> points = RandomPoints(400, 2, 4);
  for (size_t i = 0; i < points.size(); ++i)
    points[i] = 0.1f * points[i] + centres[(i / 2 % 4) * 2 + i % 2];
  const KMeans result = TrainKMeans(points, 2, {}, {.codes = 4, .iterations = 20, .seed = 9});
  EXPECT_LT(result.error, 0.05);
  for (size_t i = 4; i < 400; ++i) EXPECT_EQ(result.assignment[i], result.assignment[i % 4]);
}

TEST(KMeans, LeavesSurplusCodesDeadWhenPointsAreFewerThanCodes) {
  const std::vector<float> points = {1, 1, 2, 2, 1, 1, 3, 3, 2, 2};
  const KMeans result = TrainKMeans(points, 2, {}, {.codes = 40, .iterations = 10, .seed = 0});
  EXPECT_EQ(std::set<int32_t>(result.assignment.begin(), result.assignment.end()).size(), 3u);
  EXPECT_EQ(result.assignment[0], result.assignment[2]);
  EXPECT_EQ(result.assignment[1], result.assignment[4]);
  EXPECT_EQ(result.error, 0.0);
}

TEST(KMeans, TakesOnePoint) {
  const KMeans result =
      TrainKMeans(std::vector<float>{3, 4}, 2, {}, {.codes = 3, .iterations = 5, .seed = 0});
  EXPECT_THAT(result.assignment, ElementsAre(0));
  EXPECT_THAT(result.centroids, ElementsAre(3, 4, 3, 4, 3, 4));
}

TEST(KMeans, UsesAllCodesWhenPointsSuffice) {
  // Most mass in one spot: centres drawn blindly would leave dead codes.
  std::vector<float> points(1000, 0.0f);
  const std::vector<float> rare = RandomPoints(30, 1, 5);
  points.insert(points.end(), rare.begin(), rare.end());
  const KMeans result = TrainKMeans(points, 1, {}, {.codes = 16, .iterations = 20, .seed = 2});
  EXPECT_EQ(std::set<int32_t>(result.assignment.begin(), result.assignment.end()).size(), 16u);
}

TEST(KMeans, PutsTheCentroidAtTheWeightedMean) {
  const std::vector<float> points = {0, 1};
  const std::vector<float> weights = {1, 3};
  const KMeans result = TrainKMeans(points, 1, weights, {.codes = 1, .iterations = 5, .seed = 0});
  EXPECT_THAT(result.centroids, ElementsAre(0.75f));
  EXPECT_DOUBLE_EQ(result.error, 0.1875);  // (0.5625 + 3 * 0.0625) / 4
}

TEST(KMeans, GivesEqualBitsForEqualSeeds) {
  const std::vector<float> points = RandomPoints(300, 4, 6);
  const KMeansOptions options{.codes = 10, .iterations = 10, .seed = 3};
  EXPECT_EQ(TrainResidualKMeans(points, 4, {}, 3, options),
            TrainResidualKMeans(points, 4, {}, 3, options));
}

TEST(ResidualKMeans, LeavesLessWithEveryLevel) {
  const size_t dim = 6;
  const std::vector<float> points = RandomPoints(600, dim, 7);
  const std::vector<float> embeddings =
      TrainResidualKMeans(points, dim, {}, 4, {.codes = 16, .iterations = 20, .seed = 0});
  double before = std::numeric_limits<double>::infinity();
  for (size_t levels = 1; levels <= 4; ++levels) {
    std::vector<CodeSearch> search;
    for (size_t l = 0; l < levels; ++l)
      search.emplace_back(std::span(embeddings).subspan(l * 16 * dim, 16 * dim), dim);
    std::vector<float> rest = points;
    std::vector<int32_t> codes(levels);
    double error = 0.0;
    for (size_t i = 0; i < 600; ++i) {
      const std::span<float> x = std::span(rest).subspan(i * dim, dim);
      QuantiseResidual(search, x, codes);
      for (const float v : x) error += double{v} * v / 600;
    }
    EXPECT_LT(error, 0.8 * before);
    before = error;
  }
}

TEST(QuantiseResidual, TakesTheCodesOffInOrder) {
  const std::vector<CodeSearch> levels = {CodeSearch(std::vector<float>{0, 10}, 1),
                                          CodeSearch(std::vector<float>{-1, 2}, 1)};
  std::vector<float> x = {11.5f};
  std::vector<int32_t> codes(2);
  QuantiseResidual(levels, x, codes);
  EXPECT_THAT(codes, ElementsAre(1, 1));
  EXPECT_THAT(x, ElementsAre(-0.5f));
}

}  // namespace
}  // namespace savior
