// A server with a fake scorer for clients in other languages: prints its port, serves until its
// standard input ends.
#include <cstdio>
#include <iostream>

#include "serving/http_server.h"
#include "tests/serving/fake_scorer.h"

int main() {
  savior::CurrentScorer current;
  savior::ServingMetrics metrics;
  current.Set(std::make_shared<savior::FakeScorer>(7));
  auto server =
      savior::ScoringServer::Start({.service = {.server_version = "test"}}, current, metrics);
  if (!server.ok()) {
    std::cerr << server.status() << "\n";
    return 1;
  }
  std::cout << (*server)->port() << std::endl;
  while (std::getchar() != EOF) {
  }
  (*server)->Stop();
  return 0;
}
