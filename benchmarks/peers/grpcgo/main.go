// The next number by grpc-go: grpcgo PORT. Its package `golovesv1` is generated when it is built.
package main

import (
	"context"
	"log"
	"net"
	"os"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"grpcgo/golovesv1"
)

type segments struct {
	golovesv1.UnimplementedSegmentServiceServer
	id atomic.Int64
}

func (s *segments) Next(_ context.Context, request *golovesv1.SegmentNextRequest) (*golovesv1.IdsResponse, error) {
	if request.GetTag() == "" {
		return nil, status.Error(codes.InvalidArgument, "a tag is wanted")
	}
	return &golovesv1.IdsResponse{Ids: []int64{s.id.Add(1)}}, nil
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	golovesv1.RegisterSegmentServiceServer(server, &segments{})
	log.Fatal(server.Serve(listener))
}
