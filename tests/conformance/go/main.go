// A client of the test's echo service, of all four kinds: `client ADDRESS`. It prints what it did, one line each, and
// ends with an error at the first thing that is not as it should be.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"client/echo"
)

const (
	patience   = 20 * time.Second
	large      = 4*1024*1024 - 64
	concurrent = 1000
)

func check(what string, good bool, more ...any) {
	if !good {
		fmt.Fprintln(os.Stderr, append([]any{what + ":"}, more...)...)
		os.Exit(1)
	}
	fmt.Println(what)
}

func main() {
	options := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2 * large))
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()), options)
	check("channel", err == nil, err)
	defer channel.Close()
	client := echo.NewEchoClient(channel)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	answer, err := client.Once(ctx, &echo.Ask{Text: "hello"})
	check("unary", err == nil && answer.Text == "hello", err)

	gather, err := client.Gather(ctx)
	for _, text := range []string{"a", "b", "c"} {
		check("send "+text, err == nil && gather.Send(&echo.Ask{Text: text}) == nil, err)
	}
	answer, err = gather.CloseAndRecv()
	check("client streaming", err == nil && answer.Text == "a,b,c", err)

	spread, err := client.Spread(ctx, &echo.Ask{Times: 500})
	check("spread", err == nil, err)
	count := 0
	for answer, err = spread.Recv(); err == nil; answer, err = spread.Recv() {
		check("answer "+strconv.Itoa(count), int(answer.Number) == count)
		count++
	}
	check("server streaming", err == io.EOF && count == 500, err, count)

	chat, err := client.Chat(ctx)
	check("chat", err == nil, err)
	for turn := range 50 {
		text := strconv.Itoa(turn)
		err = chat.Send(&echo.Ask{Text: text})
		check("send "+text, err == nil, err)
		answer, err = chat.Recv()
		check("turn "+text, err == nil && answer.Text == text, err)
	}
	err = chat.CloseSend()
	check("close", err == nil, err)
	_, err = chat.Recv()
	check("bidirectional streaming", err == io.EOF, err)

	_, err = client.Once(ctx, &echo.Ask{Text: "x", Fail: 3})
	check("error", status.Code(err) == codes.InvalidArgument, err)

	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	_, err = client.Once(short, &echo.Ask{Wait: 60})
	stop()
	check("deadline", status.Code(err) == codes.DeadlineExceeded, err)

	short, stop = context.WithCancel(ctx)
	time.AfterFunc(100*time.Millisecond, stop)
	_, err = client.Once(short, &echo.Ask{Text: "cancel me", Wait: 60})
	check("cancelled unary", status.Code(err) == codes.Canceled, err)

	short, stop = context.WithCancel(ctx)
	chat, err = client.Chat(short)
	check("chat", err == nil, err)
	err = chat.Send(&echo.Ask{Text: "cancel me too", Wait: 60})
	check("send", err == nil, err)
	time.AfterFunc(100*time.Millisecond, stop)
	_, err = chat.Recv()
	check("cancelled stream", status.Code(err) == codes.Canceled, err)

	body := bytes.Repeat([]byte("0123456789abcdef"), large/16)
	answer, err = client.Once(ctx, &echo.Ask{Body: body})
	check("4 MB", err == nil && bytes.Equal(answer.Body, body), err)

	var head metadata.MD
	answer, err = client.Once(ctx, &echo.Ask{Body: body}, grpc.UseCompressor(gzip.Name), grpc.Header(&head))
	check("gzip", err == nil && bytes.Equal(answer.Body, body), err)

	big := metadata.AppendToOutgoingContext(ctx, "x-big", string(bytes.Repeat([]byte("v"), 12_000)))
	_, err = client.Once(big, &echo.Ask{})
	check("big metadata", err == nil, err)
	big = metadata.AppendToOutgoingContext(ctx, "x-big", string(bytes.Repeat([]byte("v"), 20_000)))
	_, err = client.Once(big, &echo.Ask{})
	check("metadata that is too big", err != nil)
	_, err = client.Once(ctx, &echo.Ask{})
	check("and the next call", err == nil, err)

	var group sync.WaitGroup
	wrong := make(chan error, concurrent)
	for number := range concurrent {
		group.Go(func() {
			text := strconv.Itoa(number)
			answer, err := client.Once(ctx, &echo.Ask{Text: text, Wait: 0.05})
			if err != nil || answer.Text != text {
				wrong <- fmt.Errorf("%s: %v", text, err)
			}
		})
	}
	group.Wait()
	close(wrong)
	check("a thousand at once", len(wrong) == 0, <-wrong)
}
