// Random requests as the ranker takes them and as its inference graph does, for tests.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/random.h"
#include "serving/graph_runner.h"
#include "serving/ranker_graph.h"
#include "worker/model/ranker.h"

namespace savior {

inline const char* const kArms[] = {"base",        "generic_content", "saviorenc", "sid",
                                    "mba",         "savior",          "mba_off",   "shuffled_sid",
                                    "free_content"};

// A model to test with: a name, its configuration and its log's sizes.
struct RankerCase {
  std::string name;
  Config config;
  RankerSizes sizes;
};

// Every arm, and what may be there or not: behaviour features, SimTier, side features, layers,
// prefixes of codes.
std::vector<RankerCase> RankerCases();

// The arm with the default configuration, as large as the data sets' logs: 6 item features, 3
// context features, 6 numerics.
RankerCase DefaultCase(const std::string& arm);

// With weights of its own for every seed, none of them zero.
Ranker RandomRanker(const RankerCase& model, int64_t seed);

struct RankerRequest {
  StepInputs step;
  int64_t history = 0, candidates = 0;
  std::map<std::string, std::vector<float>> inputs;  // all that any graph takes
};

// One request; items without a vector among its items, and at times nothing but these. `ranker`
// tells z~.
RankerRequest RandomRequest(const RankerCase& model, Ranker& ranker, int64_t history,
                            int64_t candidates, Random* random);

// The inputs that `runner` takes. Spans of `request`.
GraphRequest InputsOf(const GraphRunner& runner, const RankerRequest& request);

}  // namespace savior
